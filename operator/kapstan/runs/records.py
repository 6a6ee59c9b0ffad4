"""What the operator, the server and the CLI read of flow runs: from the index, and from the journals themselves.

Loads no user code and unpickles nothing. The index is a shortcut to *ended*; only the journal can say that an attempt
did not end.
"""

from __future__ import annotations

import logging
import re
import time
from typing import Any, Literal, cast

from kapstan.backend import Backend
from kapstan.codec import Codec
from kapstan.errors import SerializationError, StoreUnsafe
from kapstan.ids import RunId
from kapstan.journal import AttemptEnd as JournalEnd
from kapstan.journal import History, log_name, read_journal
from kapstan.ports import AttemptEnd, AttemptRecord, Doubt, RegisterKey, RegisterState
from kapstan.runs.ending import end_run
from kapstan.states import AttemptOutcome

logger = logging.getLogger("kapstan.runs")
_KEY = re.compile("[A-Za-z2-7]{52}")


class Records:
    """``ports.RunRecords`` over the index and the store of ``backend``."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def ended(self, run_id: RunId) -> AttemptRecord | None:
        summary = self._backend.flow_runs.load(run_id)
        if summary is None or not summary.get("outcome"):
            return None
        end = AttemptEnd(
            summary["outcome"],
            summary["ended"],
            summary.get("message", ""),
            summary.get("result_ref"),
            summary.get("until"),
            _doubt(summary.get("doubt")),
        )
        return AttemptRecord(summary["attempt"], summary["started"], end)

    def attempts(self, run_id: RunId) -> list[AttemptRecord]:
        history = self.history(run_id)
        return [
            AttemptRecord(
                begun.number,
                begun.started,
                None if begun.end is None else self._end(run_id, begun.end),
                max(0, begun.retries - history.retries),
            )
            for begun in history.attempts
        ]

    def in_doubt(self, doubt: Doubt) -> bool:
        if not _KEY.fullmatch(doubt.key):  # at a place that a flow has named: nothing there is read for it
            return True
        entry = self._backend.register.read(RegisterKey.of(doubt.task, doubt.key))
        return entry is None or entry.record.state is RegisterState.PARKED

    def history(self, run_id: RunId) -> History:
        """The whole journal as it is now.

        Raises:
            StoreUnavailable: the store does not answer; nothing may be concluded.
        """
        return read_journal(self._backend.store, self._backend.codec, run_id)

    def declare(self, run_id: RunId, state: Literal["Crashed", "Cancelled"], message: str) -> None:
        try:
            end = end_run(self._backend, run_id, AttemptOutcome(state), message)
        except (StoreUnsafe, SerializationError) as error:
            # No attempt can open such a journal either, so that nothing of this run can run on.
            logger.warning("The end of flow run %s stands in the index only: %s", run_id, error)
            changed = {"state": state.upper(), "state_name": state, "message": message, "ended": time.time()}
            self._backend.flow_runs.save(run_id, {**(self._backend.flow_runs.load(run_id) or {}), **changed})
        else:
            self.show_end(run_id, end)

    def show_end(self, run_id: RunId, end: JournalEnd) -> None:
        """Let the index say how the run ended by its journal."""
        before = self._backend.flow_runs.load(run_id) or {}
        state = end.end.value.upper()
        if before.get("state") == state and before.get("outcome"):
            return
        shown = self._end(run_id, end)
        changed = {
            "state": state,
            "state_name": end.end.value,
            "message": end.message,
            "attempt": end.attempt,
            "started": before.get("started", end.at),
            "ended": end.at,
            "outcome": end.end,
            "result_ref": shown.result_ref,
        }
        self._backend.flow_runs.save(run_id, {**before, **changed})

    def summary(self, run_id: RunId) -> dict[str, Any] | None:
        """What the index holds; None if it does not know the run."""
        return self._backend.flow_runs.load(run_id)

    def recent(self, limit: int = 100) -> list[dict[str, Any]]:
        """Summaries, newest first."""
        return self._backend.flow_runs.recent(limit)

    def _end(self, run_id: RunId, end: JournalEnd) -> AttemptEnd:
        ref = result_ref(self._backend.codec, run_id, end) if end.end is AttemptOutcome.COMPLETED else None
        return AttemptEnd(end.end, end.at, end.message, ref, end.until, end.doubt)


def _doubt(found: Any) -> Doubt | None:
    parts = cast("list[Any]", found) if isinstance(found, list) else []
    return Doubt(*parts) if len(parts) == len(Doubt._fields) and all(isinstance(part, str) for part in parts) else None


def result_ref(codec: Codec, run_id: RunId, end: JournalEnd) -> str | None:
    """Where the result of a Completed attempt stands: its object, or the journal itself if it is small."""
    if end.result is None:
        return None
    reference = codec.reference(end.result, "result", run_id)
    return log_name(run_id) if reference is None else reference.key
