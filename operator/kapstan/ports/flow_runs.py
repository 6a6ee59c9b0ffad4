"""The index of flow runs and their leases."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from kapstan.ids import RunId


class RunLease(Protocol):
    """The fenced right to execute one attempt of a flow run."""

    @property
    def cancel_asked(self) -> bool:
        """Whether somebody has asked for a cancel of this attempt, as of the last call of ``renew``."""
        ...

    def renew(self) -> bool:
        """Prolong it; False if a higher attempt has it now or it was ended."""
        ...

    def release(self) -> None: ...


CANCEL_SIGNAL = signal.SIGUSR2
"""To the process that keeps the lease of a flow run: look at once whether a cancel was asked for."""


class LeaseHolder(NamedTuple):
    """Who took a run's lease last. ``live``: it has it still; else its process is gone, or let go."""

    attempt: int
    holder: str
    """``host:pid:nonce`` of the process that keeps the lease."""
    live: bool


class IndexedRun(NamedTuple):
    """A run in the index: when it was first saved (milliseconds since 1970), its id, and its summary, None where that
    is gone or cannot be read."""

    at: int
    run_id: RunId
    summary: dict[str, Any] | None


class FlowRuns(Protocol):
    """The index of flow runs (Redis, or files locally): leases, who runs where, which ended. A shortcut to *ended*,
    never to *not ended*."""

    def lease(self, run_id: RunId, attempt: int, holder: str) -> RunLease | None:
        """Take the run's lease for ``attempt``: a higher number takes it from a lower one at once; None if the same or
        a higher one holds it."""
        ...

    def save(self, run_id: RunId, summary: Mapping[str, Any]) -> None:
        """Replace the summary (JSON values; key ``state`` is the state's type, ``attempt``, ``flow``, ``name``,
        ``deployment`` ...); every ``watch`` hears of it."""
        ...

    def load(self, run_id: RunId) -> dict[str, Any] | None:
        """The summary; None if there is none, or one that cannot be read: what is missing here means nothing."""
        ...

    def recent(self, limit: int = 100) -> list[dict[str, Any]]:
        """Summaries, newest first; each has ``run_id``."""
        ...

    def newest(self, limit: int, before: tuple[int, RunId] | None = None) -> list[IndexedRun]:
        """Up to ``limit`` runs, newest first, that were first saved before ``before`` (as ``IndexedRun`` has it). Reads
        no more than that."""
        ...

    def holders(self, run_ids: Sequence[RunId]) -> list[LeaseHolder | None]:
        """Of each run, who took its lease last; None where nobody has."""
        ...

    def ask_cancel(self, run_id: RunId, attempt: int) -> None:
        """Ask the process that holds the lease of ``attempt``, or of a lower one, to cancel the run: it hears of it
        when it renews."""
        ...

    def delete(self, run_id: RunId) -> bool:
        """Forget a run; whether it was there."""
        ...

    def watch(self, changed: Callable[[RunId], None], stop: Callable[[], bool]) -> None:
        """Block, calling ``changed`` for each run whose summary is saved, until ``stop()`` (asked at least once a
        second)."""
        ...
