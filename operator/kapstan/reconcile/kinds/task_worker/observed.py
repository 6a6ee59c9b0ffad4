"""What the TaskWorker reconciler is shown: gathered by `observe`, made by hand in tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from kapstan.ports import Depth, RunRecord, SessionInfo, WorkerObservation
from kapstan.resources import TaskWorker


@dataclass(frozen=True, slots=True)
class WorkersObserved:
    """A TaskWorker, its members, and what the queue says of them."""

    worker: TaskWorker
    members: WorkerObservation
    sessions: tuple[SessionInfo, ...] | None
    """None: Redis cannot be read."""
    depth: Depth | None
    unreachable: str = ""
    parked: tuple[RunRecord, ...] | None = None
    """Runs of the tasks that the members serve whose effect is in doubt, newest first; None: nobody knows."""
    draining_since: Mapping[str, datetime] = field(default_factory=dict[str, datetime])
    """When members were asked to drain, by name."""
    gone: Mapping[str, int | None] = field(default_factory=dict[str, "int | None"])
    """Session prefixes of members whose process died: which boot, None where the member is not there any more."""
