"""What a reconciler is shown: one frozen record per kind, gathered by the loop, made by hand in tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, cast

from kapstan.ids import RunId
from kapstan.ports import AttemptObservation, AttemptRecord, Depth, Key, Manifest, SessionInfo, WorkerObservation
from kapstan.reconcile.naming import run_id_of
from kapstan.resources import Deployment, FlowRun, TaskWorker, WorkPool
from kapstan.resources.labels import SCHEDULE_LABEL
from kapstan.states import TERMINAL_PHASES


@dataclass(frozen=True, slots=True)
class Record:
    """What the run's own record says.

    ``journal``: every attempt that began was read from the store; else only what the index knows to have ended.
    ``unreachable``: why it could not be read; nothing may be concluded then.
    """

    attempts: tuple[AttemptRecord, ...] = ()
    journal: bool = False
    unreachable: str = ""

    def of(self, number: int) -> AttemptRecord | None:
        return next((attempt for attempt in self.attempts if attempt.number == number), None)


def run_id_of_run(run: FlowRun) -> RunId:
    """The id of the run that this object asks for."""
    created = run.metadata.creation_timestamp or datetime.fromtimestamp(0, UTC)
    return run_id_of(run.metadata.uid or "", created)


@dataclass(frozen=True, slots=True)
class RunObserved:
    """A FlowRun and what its next step depends on."""

    run: FlowRun
    deployment: Deployment | None
    pool: WorkPool | None
    launcher: Literal["job", "process"] | None
    """What starts attempts of the pool in this process; None: nothing does."""
    place: Literal["none", "asked", "granted"] = "none"
    """Whether the pool has given this run a place for its next attempt."""
    attempts: tuple[AttemptObservation, ...] = ()
    record: Record = Record()

    @property
    def run_id(self) -> RunId:
        return run_id_of_run(self.run)


@dataclass(frozen=True, slots=True)
class RunBrief:
    """A FlowRun as its pool and its Deployment look at it; cheap to make from a manifest, thousands are kept."""

    key: Key
    uid: str
    deployment: str
    schedule: str
    phase: str
    created: datetime
    scheduled: datetime
    """When it is due; the creation where nothing else was asked."""
    in_flight: bool
    """An attempt is recorded that has not ended."""
    cancelled: bool
    """Its cancellation was asked for."""
    attempts: tuple[tuple[int, str], ...] = ()

    @property
    def run_id(self) -> RunId:
        return run_id_of(self.uid, self.created)

    @property
    def ended(self) -> bool:
        return self.phase in TERMINAL_PHASES

    @classmethod
    def of(cls, manifest: Manifest) -> RunBrief:
        """Read what is needed of a FlowRun, without a model."""
        metadata, spec = cast("Manifest", manifest["metadata"]), cast("Manifest", manifest["spec"])
        status = cast("Manifest", manifest.get("status") or {})
        created = _time(metadata.get("creationTimestamp")) or datetime.fromtimestamp(0, UTC)
        attempts = cast("list[Manifest]", status.get("attempts") or [])
        phase = str(status.get("phase") or "")
        in_flight = phase not in TERMINAL_PHASES and bool(attempts) and not attempts[-1].get("finishedAt")
        labels = cast("Mapping[str, str]", metadata.get("labels") or {})
        return cls(
            key=Key("FlowRun", str(metadata.get("namespace") or "default"), str(metadata["name"])),
            uid=str(metadata.get("uid") or ""),
            deployment=str(cast("Manifest", spec.get("deploymentRef") or {}).get("name") or ""),
            schedule=labels.get(SCHEDULE_LABEL, ""),
            phase=phase,
            created=created,
            scheduled=_time(spec.get("scheduledTime")) or created,
            in_flight=in_flight,
            cancelled=bool(spec.get("cancel")),
            attempts=tuple((int(a["number"]), str(a["job"])) for a in attempts),
        )


def _time(value: Any) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class Tokens:
    """A pool's bucket of launches: ``left`` at the moment ``at``."""

    left: float
    at: datetime


@dataclass(frozen=True, slots=True)
class PoolObserved:
    """A WorkPool and every FlowRun whose Deployment names it."""

    pool: WorkPool
    served: bool
    runs: tuple[RunBrief, ...] = ()
    deployments: Mapping[str, Deployment] = field(default_factory=dict[str, Deployment])
    waiting: frozenset[Key] = frozenset()
    """Runs that asked for a place."""
    granted: frozenset[Key] = frozenset()
    """Runs that were given a place and have not recorded their attempt yet."""
    tokens: Tokens | None = None
    """None: full."""


@dataclass(frozen=True, slots=True)
class DeploymentObserved:
    """A Deployment and its FlowRuns, finished ones included."""

    deployment: Deployment
    pool: WorkPool | None
    runs: tuple[RunBrief, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkersObserved:
    """A TaskWorker, its members, and what the queue says of them."""

    worker: TaskWorker
    members: WorkerObservation
    sessions: tuple[SessionInfo, ...] | None
    """None: Redis cannot be read."""
    depth: Depth | None
    unreachable: str = ""
    draining_since: Mapping[str, datetime] = field(default_factory=dict[str, datetime])
    """Members that were told to drain, by name."""
    gone: Mapping[str, int | None] = field(default_factory=dict[str, "int | None"])
    """Session prefixes of members whose process died: which boot, None where the member is not there any more."""
