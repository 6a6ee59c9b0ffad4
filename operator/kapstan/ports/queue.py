"""The background runs of one namespace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from kapstan.durability import Durability
from kapstan.ids import RunId, Token
from kapstan.ports.lane import Lane
from kapstan.ports.session import Session
from kapstan.run_limits import Limits
from kapstan.states import EffectClass

ENDS_SECONDS = 30 * 86_400
"""How long the end of a process is known."""
MOST_PRIORITY = 100
"""Priorities go from this below 0 to this above."""
LONGEST_GROUP = 128
"""Bytes of the name of a group."""

RunState = Literal["ready", "delayed", "running", "completed", "failed", "crashed", "cancelled", "parked"]
"""Where a background run stands. Terminal: completed, failed, crashed, cancelled."""


Served = str | tuple[str, str]
"""A task in the queue ``default``, or (task, queue)."""


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
    effect: EffectClass = EffectClass.PURE
    """Only runs that are PURE are ever claimed in batches."""
    priority: int = 0
    """-100 to 100; of one task's runs in a queue those of greater priority go first, but for every tenth."""
    group: str = ""
    """Runs of one priority go in turns, one of each group."""
    expires: float | None = None
    """Seconds until it must have begun, by the server's clock; one that has not ends as cancelled (``expired``)."""
    after: tuple[RunId, ...] = ()
    """Runs that must have completed before it may start. Once one ended otherwise, or is not known, it starts: whoever
    executes it finds that out."""
    durability: Durability = Durability.REDIS
    """Where it stands before its submit is answered. Of level ``STORE`` the store is the caller's part."""
    begun: bool = False
    """It was submitted before, and the queue has lost it: it may have begun. Of class at_most_once only the register of
    its key says what became of it."""
    cancelled: bool = False
    """Whoever claims it ends it as cancelled and does not execute it."""


class Submitted(NamedTuple):
    """What submit answers: ``duplicate`` if the run was there already (same fingerprint), with its state."""

    state: RunState
    duplicate: bool


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
    """Arguments before the end, outcome after it; empty of a crashed run whose record cannot be read."""
    since: float = field(default=0.0, compare=False)
    """Unix seconds: when its state began; after the end, when it ended."""
    started: float | None = field(default=None, compare=False)
    """When the execution began that runs or that ended it; None where it never did."""
    session: str = field(default="", compare=False)
    """Of the worker that ended it."""
    key: str = field(default="", compare=False)
    """Parked: the key of the register that tells of the effect in doubt."""
    effect: EffectClass = field(default=EffectClass.PURE, compare=False)
    priority: int = 0
    group: str = ""

    expired: bool = field(default=False, compare=False)
    """Cancelled: because it was not begun by its deadline."""
    fingerprint: str = field(default="", compare=False)
    stored: bool = field(default=False, compare=False)
    """It is of durability ``STORE``."""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A worker session as others see it."""

    session: str
    worker: str
    """Name of the TaskWorker, or of the program that serves."""
    served: tuple[tuple[str, str], ...]
    """(task, queue) of each route from which it claims."""
    lanes: int
    claimed: int
    draining: bool
    lease_left: float
    """Seconds."""

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(task for task, _ in self.served))


class Depth(NamedTuple):
    """Backlog of a set of tasks: ready now, delayed to later, claimed."""

    ready: int
    delayed: int
    running: int
    oldest_ready_seconds: float | None
    paused: int = 0
    """Ready runs of tasks that a person has paused; not among ``ready``."""
    limited: int = 0
    """Ready runs beyond what the limits of their tasks and groups let begin now; not among ``ready``."""


class Queue(Protocol):
    """The background runs of one namespace.

    Raises (every method):
        QueueUnavailable: Redis does not answer within the retry budget of the settings.
    """

    def submit(self, submission: Submission) -> Submitted:
        """Accept one run; an idle lane is handed it in the same script. Repeating a submit is harmless.

        Raises:
            IdempotencyConflict: the id exists with another fingerprint.
            QueueFull: Redis has no memory for it; nothing was accepted.
            ConfigurationError: a durability that this server cannot keep; nothing was accepted.
        """
        ...

    def replace(self, key: str, make: Callable[[RunId], Submission]) -> tuple[RunId, Submitted]:
        """Accept one run under a ``key``. If a run that was submitted under it still waits, that gets the arguments,
        the time and the wishes of this one (``duplicate``, under its own id). One that is held by a worker or has ended
        is left alone, and a new one is accepted.

        Args:
            key: of one task and queue; 1 to 64 characters of [A-Za-z0-9_-].
            make: the submission for a run id, which only the queue knows; called again when another was faster.

        Raises:
            QueueFull: as ``submit``.
            QueueUnavailable: others go on replacing it, faster than this call.
        """
        ...

    def submit_many(self, submissions: Iterable[Submission]) -> list[Submitted]:
        """Accept many, in order; a conflict raises after all others were accepted. They are drawn while earlier ones
        are on their way: what drawing raises is raised, and those stay accepted. The durability of the first is that
        of all."""
        ...

    def record(self, run_id: RunId) -> RunRecord | None: ...

    def records(self, run_ids: Sequence[RunId]) -> list[RunRecord | None]: ...

    def wait(self, run_ids: Sequence[RunId], timeout: float | None) -> set[RunId]:
        """Block until at least one of ``run_ids`` is terminal or unknown to the queue (never accepted, expired, lost
        with the last writes of a server that was restarted); those that are. Empty on timeout. Works for runs that
        another process submitted. One connection serves all waiting threads of the process."""
        ...

    def pause(self, task: str, queue: str = "default") -> bool:
        """Let no more runs of a task be claimed from a queue, of any task if ``task`` is empty, until ``resume``. What
        workers hold already goes on. False: it was paused before."""
        ...

    def resume(self, task: str, queue: str = "default") -> bool:
        """End ``pause``, given the same names. False: it was not paused."""
        ...

    def paused(self) -> list[tuple[str, str]]:
        """Task (empty: all) and queue of each pause."""
        ...

    def cancel(self, run_id: RunId) -> RunState | None:
        """Cancel: a queued or delayed run ends at once, the worker of a running one is asked to stop it. Its state
        before, None if unknown. ``running``, too, of a run of class at_most_once that may have begun and waits: the
        worker that claims it next ends it as the register of its key says, and executes nothing."""
        ...

    def open_session(
        self,
        worker: str,
        served: Sequence[Served],
        lanes: int,
        *,
        session: str | None = None,
        limits: Mapping[str, Limits] | None = None,
    ) -> Session:
        """Begin to claim runs of ``served``. ``limits``: by task; they hold, and those of other served tasks are none,
        until another session says otherwise. ``session`` defaults to host, process and a boot nonce."""
        ...

    def open_lane(self, session: str, lane: int, served: Sequence[Served]) -> Lane:
        """The line of child number ``lane`` (0-based) of ``session``; called in the child."""
        ...

    def expire_session(self, session_prefix: str, *, seen: bool = False) -> list[str]:
        """End the sessions of a process that is gone: their runs go back, uncharged; the names that ended.

        By a whole name, or by its first part (a pod, a process): then sessions whose supervisor is connected stay,
        since those are of the next start.

        ``seen``: the process was seen to end (a container that has terminated), and is not only missing (a pod that
        was removed by force may run on). That is noted, as by ``note_end``.
        """
        ...

    def drain_session(self, session_prefix: str) -> list[str]:
        """Ask the sessions whose name begins so to claim no more; their names. Sessions that the same pod or process
        opens within a day claim nothing either."""
        ...

    def note_end(self, name: str, evidence: Mapping[str, Any]) -> None:
        """Somebody saw a process end, by its exit and not by its silence: the session or executor ``name``. Kept for
        ``ENDS_SECONDS``, for those who wait until it is known whether the process can still do what it began."""
        ...

    def seen_end(self, name: str) -> Mapping[str, Any] | None:
        """What was noted of an end; None: nobody saw one, or it was long ago."""
        ...

    def sessions(self) -> list[SessionInfo]: ...

    def depth(self, served: Sequence[Served]) -> Depth: ...

    def runs(self, limit: int = 100) -> list[RunRecord]:
        """The records of the runs that were submitted last, newest first; ``BackgroundRuns`` has pages and filters."""
        ...

    def ping(self) -> str:
        """Server name and version, after the checks of ``maxmemory-policy`` and version were made."""
        ...

    def close(self) -> None: ...
