"""The contracts between Kapstan's parts; the adapters below implement them, the layers above call nothing else.

``Store`` and ``RunLog`` (object store), ``Queue`` and ``RunLeases`` (Redis) are synchronous and safe to call from
several threads;
``Cluster`` and ``Launcher`` are async. The docstrings here are the contract: ``tests/contract`` runs one suite per
port over
every adapter of it. Values are bytes and plain records: nothing here knows how a value was serialised or signed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from kapstan.ids import RunId, Token

# ---------------------------------------------------------------------------------------------- object store


class Stored(NamedTuple):
    """An object and the version (opaque, exactly as the store gave it) that a conditional replace names."""

    body: bytes
    version: str


class Store(Protocol):
    """Objects by key, with conditional writes. Keys are ``/``-separated ASCII; bodies are at most 5 GiB.
    No key may be the folder of another one (``a`` and ``a/b``): MinIO would not list the latter.

    Every method retries what is safe to repeat until ``deadline`` seconds (of the adapter) have passed.

    Raises:
        StoreUnavailable: no answer within the deadline; whether a write landed is unknown.
        StoreRefused: the store said no for a reason that repeating cannot cure.
    """

    def get(self, key: str) -> Stored | None:
        """The object, or None."""
        ...

    def put(self, key: str, body: bytes) -> None:
        """Write whatever is there. Only for names that are unique to one attempt, so that a repeat is harmless."""
        ...

    def create(self, key: str, body: bytes) -> bool:
        """Write ``body`` unless the key exists: True if the object is now ours, False if another's was there.

        A lost reply is recognised by reading one's own bytes back, so ``body`` must hold something that no other
        writer writes (a token of this process start).
        """
        ...

    def replace(self, key: str, body: bytes, version: str) -> str | None:
        """Write ``body`` if the object still has ``version``: the new version, or None if it changed or is gone.

        ``body`` must differ from everything that was ever stored here (a counter or nonce): versions may be digests.
        """
        ...

    def keys(self, prefix: str, after: str = "") -> Iterator[str]:
        """The keys that begin with ``prefix`` and sort after ``after``, in ascending order."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Remove the objects; those that are not there are no error. Never a register, never a journal of a live
        run."""
        ...

    def probe(self) -> None:
        """Check that conditional writes hold: racing creates, create on existing, stale replace, replace of nothing.

        Raises:
            StoreUnsafe: they do not, with the check that failed.
        """
        ...

    def log(self, name: str) -> RunLog:
        """The append-only log called ``name`` (a flow run's journal), not opened yet."""
        ...

    def close(self) -> None: ...


class EraRegister(Protocol):
    """Where the era lives: outside Redis, because a counter in Redis goes backwards with it."""

    def current(self) -> int: ...

    def raise_above(self, era: int) -> int:
        """An era greater than ``era``: raises the register by one unless somebody has already raised it above
        ``era``."""
        ...


class RunLog(Protocol):
    """An append-only sequence of records with one writer at a time: whoever opened it last.

    A record is acknowledged (append returned) only when it is durable and every later opener will read it, in order,
    once. One append is in flight at a time; the caller serialises (see ``journal``).
    """

    def read(self) -> list[bytes]:
        """Every acknowledged record so far, openings included, in order, without becoming the writer. [] if there is
        no log."""
        ...

    def open(self, opening: bytes, admit: Callable[[Sequence[bytes]], None] | None = None) -> list[bytes]:
        """Become the writer: everything written before is returned (in order, without this ``opening``), and whoever
        wrote until now is fenced at its next append. ``opening`` must hold a token that is new for each process start.

        ``admit`` is shown what was written so far before anything is changed, and may refuse by raising. A busy writer
        may have added to it by the time that the log is open.
        """
        ...

    def append(self, records: Sequence[bytes]) -> None:
        """Add ``records`` together; returns when they are durable.

        After StoreUnavailable, or an exception that a signal raised in between, they may be in the log or not; the next
        append settles that before it adds.

        Raises:
            Fenced: another opener has taken over; nothing of ``records`` is in the log.
        """
        ...

    def close(self) -> None: ...


# ---------------------------------------------------------------------------------------------- queue

RunState = Literal["ready", "delayed", "running", "completed", "failed", "crashed", "cancelled", "parked"]
"""Where a background run stands. Terminal: completed, failed, crashed, cancelled."""


class Submission(NamedTuple):
    """A background run to be. ``envelope`` holds the signed arguments (<= the inline limit, else a signed
    reference)."""

    run_id: RunId
    task: str
    """Task identity, ``module:qualname`` or the explicit name."""
    envelope: bytes
    fingerprint: str
    """8 to 16 characters that are equal only for the same task and arguments."""
    queue: str = "default"
    delay: float = 0.0
    """Seconds until it may start, by the server's clock."""
    effect: str = "p"
    """Effect class, one letter: p(ure), i(dempotent), a(t most once), t(ransactional). Only p is ever claimed in
    batches."""


class Submitted(NamedTuple):
    """What submit answers: ``duplicate`` if the run was there already (same fingerprint), with its state."""

    state: RunState
    duplicate: bool


class Claim(NamedTuple):
    """A run that this lane may execute, and the token with which it may finish it."""

    run_id: RunId
    task: str
    token: Token
    attempt: int
    """1 for the first execution; grows with each retry that the task's policy asked for, not with crashes."""
    crashes: int
    effect: str
    envelope: bytes


class Outcome(NamedTuple):
    """How a claimed run ended. ``envelope`` is the signed result (or reference, or exception)."""

    run_id: RunId
    token: Token
    state: Literal["completed", "failed", "crashed", "cancelled"]
    envelope: bytes


class Stepped(NamedTuple):
    """What ``step`` answers."""

    lost: list[RunId]
    """Outcomes that were dropped because the claim, or the whole session, is no longer ours."""
    claims: list[Claim]


class Renewed(NamedTuple):
    """What ``renew`` answers to a supervisor."""

    alive: bool
    """False: the session had ended (lease passed and reaped); it was opened anew, and its old claims are gone."""
    drain: bool
    """Somebody asked this session to drain: finish what runs, claim no more."""
    cancelled: list[RunId]
    """Claimed runs of this session that should be stopped."""
    reaped: list[str]
    """Sessions whose lease had passed and whose runs went back to the queue in this call."""
    next_due: float | None
    """Seconds until the next delayed run of the namespace is due, None if there is none."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A background run as its record in the queue tells it."""

    run_id: RunId
    task: str
    queue: str
    state: RunState
    token: Token
    attempt: int
    crashes: int
    envelope: bytes
    """Arguments before the end, outcome after it."""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A worker session as others see it."""

    session: str
    worker: str
    """Name of the TaskWorker, or of the program that serves."""
    tasks: tuple[str, ...]
    lanes: int
    claimed: int
    draining: bool
    lease_left: float
    """Seconds."""


class Depth(NamedTuple):
    """Backlog of a set of tasks: ready now, delayed to later, claimed."""

    ready: int
    delayed: int
    running: int
    oldest_ready_seconds: float | None


class Lane(Protocol):
    """One executor's own line to the queue: at most one run executing at a time. Used by one thread, except
    ``give_back``.

    Blocking reads are woken by the submit itself; nothing polls.
    """

    def step(self, outcomes: Sequence[Outcome], want: int) -> Stepped:
        """Finish ``outcomes`` and claim up to ``want`` runs in one round trip. A run of another class than ``p`` comes
        alone.

        Raises:
            QueueUnavailable: unknown whether it happened; call again with the same outcomes (a commit of one's own is
            recognised).

        After a restart of the server it blocks until a supervisor (or the operator) has raised the era, then goes on.
        """
        ...

    def send_step(self, outcomes: Sequence[Outcome], want: int) -> None:
        """The first half of ``step``, for two steps in flight; the answers come in order from ``read_step``."""
        ...

    def read_step(self) -> Stepped: ...

    def wait(self, timeout: float | None) -> list[Claim]:
        """Block until the queue hands this lane a run, ``wake`` is called or ``timeout`` seconds passed ([] then).

        The last ``step`` must have asked for work and got none: that parked this lane.
        """
        ...

    def wake(self) -> None:
        """End ``wait`` from another thread or a signal handler."""
        ...

    def give_back(self, executing: Sequence[RunId]) -> list[RunId]:
        """Return every run that this lane holds, but for ``executing``, unharmed to the queue.

        Answers the ids of those that the caller has been given: it must not start them any more. What was claimed and
        not yet read goes back, too; the lane itself drops it. Safe to call from a second thread: it uses a connection
        of its own.
        """
        ...

    def hand_in(self, outcomes: Sequence[Outcome]) -> list[RunId]:
        """Finish ``outcomes`` and claim nothing; those that were ``LOST``. Safe to call from a second thread, over the
        connection of ``give_back``: what is done must not wait behind a long run."""
        ...

    def retry(self, run_id: RunId, token: Token, delay: float) -> bool:
        """Free the claim and let the run start again after ``delay`` seconds as its next attempt; False: ``LOST``."""
        ...

    def close(self) -> None: ...


class Session(Protocol):
    """A worker's presence in the queue: the lease under which its lanes hold runs. Kept by the supervisor."""

    @property
    def name(self) -> str: ...

    def renew(self, held: Mapping[RunId, Token] | None = None) -> Renewed:
        """Prolong the lease, reap sessions whose lease has passed, promote due runs, re-offer ready ones to parked
        lanes.
        Raises the era when the server was restarted.

        ``held`` announces the claims of a session that lived through a change of era; those that the records still show
        as this session's stay its own.
        """
        ...

    def wait(self, timeout: float) -> bool:
        """Block until something concerns this supervisor (a cancel, a drain, an earlier due time): True; or until
        ``wake`` is called or ``timeout`` seconds passed: False."""
        ...

    def wake(self) -> None: ...

    def lane_died(self, lane: int, executing: RunId | None, envelope: bytes = b"") -> bool:
        """A child is gone: the run it was executing is charged with a crash, its others go back unharmed. True: it
        crashed ``max_crashes`` times and is quarantined, with ``envelope`` as its outcome."""
        ...

    def give_back(self, lane: int, executing: Sequence[RunId]) -> list[RunId]:
        """As ``Lane.give_back``, for a child that cannot do it itself because its task holds the interpreter."""
        ...

    def drain(self) -> None:
        """Claim no more; what is parked is unparked."""
        ...

    def close(self) -> None:
        """End the session at once: what it still holds goes back."""
        ...


class Queue(Protocol):
    """The background runs of one namespace.

    Raises (every method):
        QueueUnavailable: Redis does not answer within the retry budget of the settings.
    """

    def submit(self, submission: Submission) -> Submitted:
        """Accept one run; an idle lane is handed it in the same script. Repeating a submit is harmless.

        Raises:
            IdempotencyConflict: the id exists with another fingerprint.
        """
        ...

    def submit_many(self, submissions: Iterable[Submission]) -> list[Submitted]:
        """Accept many, in order; a conflict raises after all others were accepted. They are drawn while earlier ones
        are on their way: what drawing raises is raised, and those stay accepted."""
        ...

    def record(self, run_id: RunId) -> RunRecord | None: ...

    def records(self, run_ids: Sequence[RunId]) -> list[RunRecord | None]: ...

    def wait(self, run_ids: Sequence[RunId], timeout: float | None) -> set[RunId]:
        """Block until at least one of ``run_ids`` is terminal; those that are. Empty on timeout. Works for runs that
        another
        process submitted. One connection serves all waiting threads of the process."""
        ...

    def cancel(self, run_id: RunId) -> RunState | None:
        """Cancel: a queued or delayed run ends at once, a running one is told; its state before, None if unknown."""
        ...

    def open_session(
        self, worker: str, tasks: Sequence[str], lanes: int, *, queue: str = "default", session: str | None = None
    ) -> Session:
        """Begin to serve ``tasks``. ``session`` defaults to host, process and a boot nonce."""
        ...

    def open_lane(self, session: str, lane: int, tasks: Sequence[str], *, queue: str = "default") -> Lane:
        """The line of child number ``lane`` (0-based) of ``session``; called in the child."""
        ...

    def expire_session(self, session_prefix: str) -> list[str]:
        """Whoever saw a process end says so: sessions whose name begins so end now, their runs go back; their names."""
        ...

    def drain_session(self, session_prefix: str) -> list[str]:
        """Ask the sessions whose name begins so to claim no more; their names."""
        ...

    def sessions(self) -> list[SessionInfo]: ...

    def depth(self, tasks: Sequence[str], queue: str = "default") -> Depth: ...

    def runs(self, limit: int = 100) -> list[RunRecord]:
        """Some current records, newest first, for the CLI."""
        ...

    def ping(self) -> str:
        """Server name and version, after the checks of ``maxmemory-policy`` and version were made."""
        ...

    def close(self) -> None: ...


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
        a
        higher one holds it."""
        ...

    def save(self, run_id: RunId, summary: Mapping[str, Any]) -> None:
        """Replace the summary (JSON values; key ``state`` is the state's type, ``attempt``, ``flow``, ``name``,
        ``deployment`` ...); those who
        ``watch`` are told."""
        ...

    def load(self, run_id: RunId) -> dict[str, Any] | None: ...

    def recent(self, limit: int = 100) -> list[dict[str, Any]]:
        """Summaries, newest first; each has ``run_id``."""
        ...

    def watch(self, changed: Callable[[RunId], None], stop: Callable[[], bool]) -> None:
        """Block, calling ``changed`` for each run whose summary is saved, until ``stop()`` (asked at least once a
        second)."""
        ...


AttemptOutcome = Literal["Completed", "Failed", "Cancelled", "Suspended", "HandedBack"]


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How an attempt of a flow run ended, by its own word. ``at`` and ``until`` are Unix seconds."""

    outcome: AttemptOutcome
    at: float
    message: str = ""
    result_ref: str | None = None
    """Completed: where the result is stored."""
    until: float | None = None
    """Suspended: when it goes on by itself; None: when it is told to."""


class AttemptRecord(NamedTuple):
    """One attempt as the run's journal tells it; without ``end`` it still runs, or was lost."""

    number: int
    started_at: float
    end: AttemptEnd | None


class RunRecords(Protocol):
    """What the control plane reads of flow runs and their attempts; synchronous, called on a thread.

    ``ended`` is a shortcut to *ended*; only ``attempts`` can say that an attempt did not end.
    """

    def ended(self, run_id: RunId) -> AttemptRecord | None:
        """The latest attempt that the index knows to have ended; None says nothing.

        Raises:
            QueueUnavailable: the index does not answer.
        """
        ...

    def attempts(self, run_id: RunId) -> list[AttemptRecord]:
        """Every attempt that began, by number, read from the journal in the store; [] if none ever began.

        Raises:
            StoreUnavailable: the store does not answer; nothing may be concluded.
        """
        ...

    def declare(self, run_id: RunId, state: Literal["Crashed", "Cancelled"], message: str) -> None:
        """Note in the index how the control plane ended a run that could not say so itself. Repeating is harmless."""
        ...


# ---------------------------------------------------------------------------------------------- control plane

Kind = Literal["Deployment", "WorkPool", "TaskWorker", "FlowRun"]


class Key(NamedTuple):
    """Names one resource; what the work queue of ``reconcile`` holds."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


Manifest = dict[str, Any]
"""A resource as the API server shows it: apiVersion, kind, metadata, spec, status."""


class Cluster(Protocol):
    """*Our* custom resources: the API server, or versioned files in local mode. Manifests in, manifests out.

    Raises:
        ClusterUnavailable: no answer.
        InvalidResource: the object breaks its schema or rules, with the API server's words.
        ResourceConflict: create of what exists; an ``apply`` or ``delete`` with an old resourceVersion.
        NotFound: status of, or delete of, what is not there.
    """

    async def get(self, key: Key) -> Manifest | None: ...

    async def list(
        self, kind: Kind, namespace: str | None = None, *, labels: Mapping[str, str] | None = None
    ) -> list[Manifest]: ...

    async def create(self, manifest: Manifest) -> Manifest: ...

    async def apply(self, manifest: Manifest) -> Manifest:
        """Create or change to what ``manifest`` says (server-side apply, one field manager); an equal apply changes
        nothing."""
        ...

    async def set_status(
        self, key: Key, status: Manifest, *, uid: str, resource_version: str | None = None
    ) -> Manifest:
        """Replace the status; the object as it is stored now.

        Refused as NotFound if the object of that name is another one by now, and as ResourceConflict if
        ``resource_version`` is given and is not the stored one: a decision made on an old view must not be written.
        """
        ...

    async def set_scale(self, key: Key, replicas: int) -> None: ...

    async def delete(self, key: Key) -> None: ...

    async def emit(
        self, key: Key, *, uid: str, severity: Literal["Normal", "Warning"], reason: str, message: str
    ) -> None:
        """Record an Event about the object."""
        ...

    def changes(self, kinds: Sequence[Kind]) -> AsyncIterator[tuple[Literal["changed", "deleted"], Manifest]]:
        """First every object, then each change as it happens. Used by local mode and the CLI; kopf feeds the
        operator."""
        ...

    async def close(self) -> None: ...


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


@dataclass(frozen=True, slots=True)
class WorkerObservation:
    """What runs for one TaskWorker: pods of its apps/v1 Deployment, or processes."""

    wanted: int
    """Replicas that the launcher was last told."""
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
    """Key of parameters that stand in the store instead."""


@dataclass(frozen=True, slots=True)
class WorkersRequest:
    """Keep ``replicas`` members of a TaskWorker running."""

    worker: Manifest
    replicas: int


class Launcher(Protocol):
    """Starts and stops what executes: ``job`` (Jobs, apps/v1 Deployments) or ``process`` (children of this machine).

    Names are given by the caller and are pure functions of the parent: every call may be repeated. What ``start``
    and ``ensure_workers`` have answered is seen by the next ``observe_...``, whatever a watch has told so far.
    """

    @property
    def flavour(self) -> Literal["job", "process"]:
        """``job`` needs an image, ``process`` a directory."""
        ...

    async def start(self, request: JobRequest) -> None:
        """Start an attempt. Is it there already (same name, same owner), nothing happens; never starts a finished one
        again.

        Raises:
            InvalidResource: it can never be started so (a pod template that is refused); repeating cannot help.
        """
        ...

    async def stop(self, run: Key, job: str, *, grace: float) -> None:
        """End an attempt: SIGTERM, after ``grace`` seconds SIGKILL. Gone already: no error."""
        ...

    async def remove(self, run: Key, job: str) -> None:
        """Delete what is left of an attempt: the Job and its pods, the process' log. One that still runs ends first."""
        ...

    async def observe_attempts(
        self, run: Key, uid: str, jobs: Sequence[tuple[int, str]]
    ) -> list[AttemptObservation]: ...

    async def ensure_workers(self, request: WorkersRequest) -> None:
        """Make the members match: start what is missing, let the cheapest go (lowest deletion cost first)."""
        ...

    async def remove_workers(self, worker: Key) -> None:
        """The TaskWorker is gone: its members end. Where its owner references see to that, nothing is done here."""
        ...

    async def set_deletion_cost(self, worker: Key, member: str, cost: int) -> None:
        """Name the member that must go first; returns when it is *answered*."""
        ...

    async def observe_workers(self, worker: Key, uid: str) -> WorkerObservation: ...

    async def close(self) -> None: ...
