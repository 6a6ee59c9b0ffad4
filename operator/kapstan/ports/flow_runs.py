"""The index of flow runs and their leases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from kapstan.ids import RunId


class RunLease(Protocol):
    """The fenced right to execute one attempt of a flow run."""

    def renew(self) -> bool:
        """Prolong it; False if a higher attempt has it now or it was ended."""
        ...

    def release(self) -> None: ...


class FlowRuns(Protocol):
    """The index of flow runs (Redis, or files locally): leases, who runs where, which ended. A shortcut to *ended*,
    never to *not ended*."""

    def lease(self, run_id: RunId, attempt: int, holder: str) -> RunLease | None:
        """Take the run's lease for ``attempt``: a higher number takes it from a lower one at once; None if the same or
        a higher one holds it."""
        ...

    def save(self, run_id: RunId, summary: Mapping[str, Any]) -> None:
        """Replace the summary (JSON values; key ``state`` is the state's type, ``attempt``, ``flow``, ``name``,
        ``deployment`` ...); those who ``watch`` are told."""
        ...

    def load(self, run_id: RunId) -> dict[str, Any] | None: ...

    def recent(self, limit: int = 100) -> list[dict[str, Any]]:
        """Summaries, newest first; each has ``run_id``."""
        ...

    def watch(self, changed: Callable[[RunId], None], stop: Callable[[], bool]) -> None:
        """Block, calling ``changed`` for each run whose summary is saved, until ``stop()`` (asked at least once a
        second)."""
        ...
