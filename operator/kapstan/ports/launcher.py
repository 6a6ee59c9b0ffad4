"""What starts and stops processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from kapstan.ids import RunId
from kapstan.ports.cluster import Key, Manifest


@dataclass(frozen=True, slots=True)
class AttemptObservation:
    """What infrastructure tells about one attempt's process (a Job and its pod, or a child process)."""

    number: int
    job: str
    exists: bool
    """False: recorded once, gone now."""
    stopping: bool = False
    pod: str | None = None
    node: str | None = None
    running: bool = False
    """User code's container has started."""
    ended: bool = False
    """The process is known to have ended (container terminated, process reaped, Job gone)."""
    exit_code: int | None = None
    reason: str = ""
    """Kubernetes' word for it: OOMKilled, Error, Evicted, ImagePullBackOff, Unschedulable, ..."""
    message: str = ""
    started_at: str | None = None
    finished_at: str | None = None
    created_at: str | None = None
    placed_at: str | None = None
    """When a node was found for it; None: it waits for one, or needs none."""
    stop_by: str | None = None
    """``stopping``: when its grace is over, so that it should be gone."""
    log: tuple[str, ...] = ()
    """What it has logged last, where infrastructure tells."""
    lingers: bool = False
    """``ended``, but its pod goes on: a sidecar that nobody stops."""


@dataclass(frozen=True, slots=True)
class WorkerObservation:
    """What runs for one TaskWorker: pods of its apps/v1 Deployment, or processes."""

    wanted: int
    """Replicas that were last asked of the launcher."""
    members: tuple[WorkerMember, ...] = ()
    selector: str = ""
    template_hash: str = ""
    problem: str = ""
    """Why a member cannot even be made, such as a quota's words."""


@dataclass(frozen=True, slots=True)
class WorkerMember:
    """One pod or process of a TaskWorker."""

    name: str
    session_prefix: str
    """Sessions of this member have names that begin so (the pod's UID, the process' nonce)."""
    ready: bool
    ending: bool
    deletion_cost: int = 0
    message: str = ""
    ended: bool = False
    """The process is known to be dead at this moment (container terminated, process reaped)."""
    boot: int = 0
    """How often the process of this member was started again; a new boot is a new session."""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """Start one attempt of a flow run. The launcher turns it into a Job or a child process; pure data."""

    run: Key
    uid: str
    run_id: RunId
    attempt: int
    job: str
    deployment: Manifest
    pool: Manifest
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    parameters_ref: str | None = None
    """Key of further ones in the store, laid over these."""
    again: bool = False
    """A person asked to go on with a run that had failed: outcomes that failed are dropped first."""


@dataclass(frozen=True, slots=True)
class WorkersRequest:
    """Keep ``replicas`` members of a TaskWorker running."""

    worker: Manifest
    replicas: int


class Launcher(Protocol):
    """Starts and stops what executes: ``job`` (Jobs, apps/v1 Deployments) or ``process`` (children of this machine).

    Names are given by the caller and are pure functions of the parent: every call may be repeated. What ``start``
    and ``ensure_workers`` have answered is seen by the next ``observe_...``, whatever a watch has told so far.

    By nature they differ in this. An end by SIGKILL is exit code -9 of a process, 137 of a container. An attempt that
    was stopped leaves a process' folder, but no Job once its pod has ended: it must not be started again. Members of a
    TaskWorker whose object was deleted are ended by ``remove_workers``, or without it where the object owns them.
    """

    @property
    def flavour(self) -> Literal["job", "process"]:
        """``job`` needs an image, ``process`` a directory."""
        ...

    async def start(self, request: JobRequest) -> None:
        """Start an attempt. Does nothing if it is there already (same name, same owner), even if it has finished.

        Raises:
            InvalidResource: it can never be started so (a pod template that is refused); repeating cannot help.
            ForeignObject: something of somebody else has this name.
        """
        ...

    async def stop(self, run: Key, uid: str, job: str, *, grace: float) -> None:
        """End an attempt of the run that has ``uid``: SIGTERM, after ``grace`` seconds SIGKILL. Gone already: no
        error. What is not of that run is left alone."""
        ...

    async def remove(self, run: Key, uid: str, job: str) -> None:
        """Delete what is left of an attempt of the run that has ``uid``: the Job and its pods, the process' log. One
        that still runs ends first. What is not of that run is left alone."""
        ...

    async def observe_attempts(
        self, run: Key, uid: str, jobs: Sequence[tuple[int, str]]
    ) -> list[AttemptObservation]: ...

    async def ensure_workers(self, request: WorkersRequest) -> None:
        """Make the members match: start what is missing, let the cheapest go (lowest deletion cost first).

        Raises:
            ForeignObject: something of somebody else has the name.
        """
        ...

    async def remove_workers(self, worker: Key) -> None:
        """The TaskWorker is gone: its members end."""
        ...

    async def set_deletion_cost(self, worker: Key, member: str, cost: int) -> None:
        """Name the member that must go first; returns when it is *answered*."""
        ...

    async def observe_workers(self, worker: Key, uid: str) -> WorkerObservation: ...

    async def close(self) -> None: ...
