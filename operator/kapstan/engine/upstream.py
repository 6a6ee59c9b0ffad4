"""The runs that a background run waits for (``apply_async(wait_for=...)``), as the worker that claims it sees them.

The queue lets the run start when they have ended; whether they ended well is decided here, by their records, or by a
result that outlives its record (``persist_result``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kapstan import states
from kapstan.backend import Backend
from kapstan.engine.pending import Resolvable
from kapstan.ids import RunId, to_uuid
from kapstan.ports import RunRecord
from kapstan.runs import persisted
from kapstan.states import State

AFTER = "after"
"""Where the ids of these runs stand beside the arguments of the one that waits."""
_OPEN = frozenset({"ready", "delayed", "running", "parked"})


class Upstream(Resolvable):
    """Some runs together: done when all have completed, or one of them has ended otherwise."""

    __slots__ = ("_backend", "_run_ids")

    def __init__(self, backend: Backend, run_ids: Sequence[RunId]) -> None:
        self._backend = backend
        self._run_ids = run_ids

    @property
    def memo_reference(self) -> str:
        return " ".join(self._run_ids)

    @property
    def done(self) -> bool:
        records = self._records()
        return self._failed(records) is not None or not any(record.state in _OPEN for _, record in records if record)

    def final_state(self) -> State:
        """Completed, without a result; else Failed, its name says which of them ended how."""
        while True:
            records = self._records()
            failed = self._failed(records)
            if failed is not None:
                return states.Failed(name=failed)
            left = [run_id for run_id, record in records if record is not None and record.state in _OPEN]
            if not left:
                return states.Completed(data=None)
            self._backend.queue.wait(left, None)

    def on_done(self, callback: Callable[[], object]) -> None:
        raise NotImplementedError(f"a background run goes back to the queue until then: {callback}")

    def _records(self) -> list[tuple[RunId, RunRecord | None]]:
        return list(zip(self._run_ids, self._backend.queue.records(self._run_ids), strict=True))

    def _failed(self, records: Sequence[tuple[RunId, RunRecord | None]]) -> str | None:
        """How the first of them ended that did not complete."""
        for run_id, record in records:
            if record is None:
                if persisted.envelope_of(self._backend, run_id) is None:
                    return f"Unknown to the queue (run {to_uuid(run_id)})"
            elif record.state not in _OPEN and record.state != "completed":
                name = "Expired" if record.expired else record.state.capitalize()
                return f"{name} (run {to_uuid(run_id)})"
        return None


def awaited(backend: Backend, arguments: list[Any]) -> tuple[Upstream, ...]:
    """The runs that must have completed before the one with these arguments, if there are any."""
    after = arguments[2].get(AFTER) if len(arguments) > 2 else None
    return (Upstream(backend, after),) if after else ()
