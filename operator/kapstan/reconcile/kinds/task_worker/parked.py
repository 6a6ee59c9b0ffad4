"""Which background runs of a namespace are parked: asked for once a minute, however many TaskWorkers there are, and of
no more than the newest hundred."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kapstan import ids
from kapstan.errors import BackendError
from kapstan.ports import BackgroundFilter, BackgroundRuns, RunRecord

MOST = 100
_AGE_SECONDS = 60.0
_SHOWN = 300  # characters of a task's name: what comes after it in a message must not be cut off
_PARKED = BackgroundFilter(frozenset({"parked"}))


@dataclass(slots=True)
class ParkedLooks:
    """What was seen, by namespace. Used by the event loop's thread only."""

    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, tuple[float, tuple[RunRecord, ...] | None]] = field(
        default_factory=dict[str, "tuple[float, tuple[RunRecord, ...] | None]"]
    )

    def is_due(self, namespace: str) -> bool:
        seen = self._seen.get(namespace)
        return seen is None or self.clock() - seen[0] >= _AGE_SECONDS

    def keep(self, namespace: str, records: tuple[RunRecord, ...] | None) -> None:
        self._seen[namespace] = self.clock(), records

    def of(self, namespace: str) -> tuple[RunRecord, ...] | None:
        """The newest first; None: they could not be read."""
        return self._seen[namespace][1]


def look(runs: Callable[[str], BackgroundRuns], namespace: str) -> tuple[RunRecord, ...] | None:
    """The parked runs of a namespace; None: Redis cannot be read."""
    try:
        return tuple(listed.record for listed in runs(namespace).page(_PARKED, MOST).runs)
    except BackendError:
        return None


def told(parked: tuple[RunRecord, ...]) -> str:
    """What a person is to do about them."""
    count = f"{len(parked)} or more" if len(parked) == MOST else str(len(parked))
    newest = parked[0]
    return (
        f"parked, until somebody decides whether their effect happened: {count}; the newest is {newest.task[:_SHOWN]} "
        f"{ids.to_uuid(newest.run_id)}: kapstan task-run inspect, then resolve"
    )
