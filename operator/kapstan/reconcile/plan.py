"""A reconciler's answer: typed actions in the order in which they must happen, and when to look again.

Actions are data. The loop carries them out one by one and stops at the first that fails: so a status that stands before
a launch is written, and answered, before the launch is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from kapstan.ports import JobRequest, Key, Manifest, WorkersRequest


@dataclass(frozen=True, slots=True)
class SetStatus:
    """Write the status of the object that was observed; refused if it has changed since."""

    key: Key
    uid: str
    status: Manifest


@dataclass(frozen=True, slots=True)
class StartAttempt:
    """Launch an attempt that stands in the run's status already."""

    pool_type: str
    request: JobRequest


@dataclass(frozen=True, slots=True)
class StopAttempt:
    """SIGTERM, and SIGKILL after ``grace`` seconds."""

    pool_type: str
    run: Key
    job: str
    grace: float


@dataclass(frozen=True, slots=True)
class RemoveAttempt:
    """Delete what is left of a finished attempt."""

    pool_type: str
    run: Key
    job: str


@dataclass(frozen=True, slots=True)
class DeclareEnd:
    """Tell the run's record of an end that its own process could not write."""

    namespace: str
    run_id: str
    state: Literal["Crashed", "Cancelled"]
    message: str


@dataclass(frozen=True, slots=True)
class AskPlace:
    """A run is ready for its next attempt: line up for a place in the pool."""

    run: Key
    pool: Key


@dataclass(frozen=True, slots=True)
class Grant:
    """Give a waiting run a place in its pool."""

    run: Key


@dataclass(frozen=True, slots=True)
class SpendTokens:
    """Note what is left of the pool's launches."""

    pool: Key
    left: float
    at: datetime


@dataclass(frozen=True, slots=True)
class CreateRun:
    """Create a FlowRun; one of that name being there already is what was wanted."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class CancelRun:
    """Ask for the cancellation of a run."""

    run: Key


@dataclass(frozen=True, slots=True)
class DeleteRun:
    """Delete a finished FlowRun beyond the history limits, with what its attempts left."""

    run: Key
    attempts: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class EnsureWorkers:
    """Keep so many members of a TaskWorker."""

    request: WorkersRequest


@dataclass(frozen=True, slots=True)
class SetReplicas:
    """Write ``spec.replicas`` of a TaskWorker, as an autoscaler does."""

    worker: Key
    replicas: int


@dataclass(frozen=True, slots=True)
class SetDeletionCost:
    """Name the member that must go first; the next action waits for the answer."""

    worker: Key
    member: str
    cost: int


@dataclass(frozen=True, slots=True)
class DrainMember:
    """Ask a member's sessions to claim no more."""

    worker: Key
    member: str
    session_prefix: str
    since: datetime
    """When it was asked first."""


@dataclass(frozen=True, slots=True)
class ExpireSession:
    """A member's process was seen dead: its runs go back to the queue now."""

    worker: Key
    session_prefix: str
    boot: int | None = None
    """Which boot of a member that is still there; None: the member itself is gone."""


@dataclass(frozen=True, slots=True)
class EmitEvent:
    """Tell a human."""

    key: Key
    uid: str
    severity: Literal["Normal", "Warning"]
    reason: str
    message: str


Action = (
    SetStatus
    | StartAttempt
    | StopAttempt
    | RemoveAttempt
    | DeclareEnd
    | AskPlace
    | Grant
    | SpendTokens
    | CreateRun
    | CancelRun
    | DeleteRun
    | EnsureWorkers
    | SetReplicas
    | SetDeletionCost
    | DrainMember
    | ExpireSession
    | EmitEvent
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, in order; ``requeue_at``: when to look again although nothing was heard.

    ``needs_journal``: decide again with the run's journal read; nothing else is in such a plan.
    """

    actions: tuple[Action, ...] = ()
    requeue_at: datetime | None = None
    needs_journal: bool = False

    @property
    def uses_place(self) -> bool:
        """Whether a run that lines up in its pool, or has a place there, still wants it."""
        return self.needs_journal or any(isinstance(action, AskPlace | StartAttempt) for action in self.actions)
