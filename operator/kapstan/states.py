"""States of runs: one table of types, phases and exit codes that code, custom resources and documentation share.

Type drives logic; the name is for people and may be chosen (``Completed(name="Skipped")``).
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast

from kapstan.errors import (
    CancelledRun,
    CrashedRun,
    KapstanError,
    MissingResult,
    ParkedRun,
    PausedRun,
    RunFailed,
    UnfinishedRun,
)


class StateType(enum.StrEnum):
    """What a state means; the first five are not final."""

    SCHEDULED = "SCHEDULED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CRASHED = "CRASHED"
    CANCELLED = "CANCELLED"

    @property
    def final(self) -> bool:
        return self in _FINAL


_FINAL = frozenset({StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED})


class AttemptOutcome(enum.StrEnum):
    """How an attempt of a flow run ended: by its own record, or ``Lost`` where it left none."""

    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    CRASHED = "Crashed"
    """The control plane gave the run up: it lost its process too often, or cannot be started."""
    SUSPENDED = "Suspended"
    HANDED_BACK = "HandedBack"
    """Asked to end (SIGTERM of a drain or an eviction); the run goes on in another attempt, and no budget is spent."""
    LOST = "Lost"

    @property
    def ends_run(self) -> bool:
        """Whether the run has ended with this attempt; after that only a person can make it go on."""
        return self in _ENDS_RUN


_ENDS_RUN = frozenset(
    {AttemptOutcome.COMPLETED, AttemptOutcome.FAILED, AttemptOutcome.CANCELLED, AttemptOutcome.CRASHED}
)


class EffectClass(enum.StrEnum):
    """What may happen if a task's code runs more than once; the letter stands in records."""

    PURE = "p"
    """Nothing: it may be run again."""
    IDEMPOTENT = "i"
    """The receiver recognises a repetition."""
    AT_MOST_ONCE = "a"
    """Its effect must never happen twice: when in doubt, a person decides."""
    TRANSACTIONAL = "t"
    """Its effect and its record are one transaction of a database."""


PHASES: dict[str, str] = {
    "Scheduled": "waits for its time, its turn in the pool, or its next attempt",
    "Pending": "an attempt was started; user code does not run yet",
    "Running": "user code runs",
    "Suspended": "no process; goes on when resumed, or when its time comes",
    "Cancelling": "was told to stop",
    "Completed": "returned",
    "Failed": "raised, after its retries",
    "Crashed": "lost its process more often than the budget allows, or could not be started",
    "Cancelled": "stopped on request",
}
"""Phases of a FlowRun (``.status.phase``) and what they say."""

TERMINAL_PHASES = ("Completed", "Failed", "Crashed", "Cancelled")

PHASE_OF_TYPE = {
    StateType.SCHEDULED: "Scheduled",
    StateType.PENDING: "Pending",
    StateType.RUNNING: "Running",
    StateType.PAUSED: "Suspended",
    StateType.CANCELLING: "Cancelling",
    StateType.COMPLETED: "Completed",
    StateType.FAILED: "Failed",
    StateType.CRASHED: "Crashed",
    StateType.CANCELLED: "Cancelled",
}


class ExitCode(enum.IntEnum):
    """How ``kapstan run`` ends."""

    DONE = 0
    """Completed, recorded."""
    FAILED = 1
    """Failed, Cancelled or Suspended, recorded."""
    USAGE = 2
    """The command line or a setting is wrong; nothing ran."""
    NOT_RECORDED = 70
    """The run ended, but its end could not be recorded."""
    HANDED_BACK = 75
    """Another attempt holds the run, or this one was asked to end (SIGTERM): no budget is spent."""


DIAGNOSES: dict[str, str] = {
    "ImagePull": "the image cannot be pulled",
    "CrashLoop": "the process ends at once, again and again",
    "OOMKilled": "the container used more memory than its limit",
    "Evicted": "the node was short of a resource",
    "Preempted": "a pod of higher priority took the place",
    "NodeLost": "the node went away",
    "Unschedulable": "no node fits the pod",
    "QuotaExceeded": "the namespace's quota is used up",
    "NameTaken": "an object of somebody else has the name of the run's Job",
    "ConfigError": "something the pod refers to does not exist or does not fit",
    "DeadlinePending": "user code did not start in time",
    "DeadlineRunning": "the run took longer than the pool allows",
    "Killed": "the process was ended by a signal from outside",
    "Cancelled": "stopped on request",
    "UserCode": "the flow raised",
}
"""Categories of ``.status.diagnosis``."""


@dataclass(slots=True, unsafe_hash=True)  # not frozen: that triples the cost of making one, on the way of every run
class State:
    """The state of a run at one moment. Nothing changes one that is made.

    Attributes:
        timestamp: seconds since 1970.
        data: what the run returned or raised, if this process has it (``has_data``).
        loader: fetches ``data`` from where it is stored; called by ``result``.
    """

    type: StateType
    name: str = ""
    message: str = ""
    timestamp: float = field(default_factory=time.time)
    data: Any = field(default=None, repr=False, compare=False)
    has_data: bool = field(default=False, repr=False, compare=False)
    loader: Callable[[], Any] | None = field(default=None, repr=False, compare=False)
    details: dict[str, Any] = field(default_factory=dict[str, Any], repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.name:
            self.name = self.type.value.capitalize()

    def __str__(self) -> str:
        return f"{self.name}({self.message!r})" if self.message else f"{self.name}()"

    @property
    def time(self) -> datetime:
        return datetime.fromtimestamp(self.timestamp, UTC)

    def is_scheduled(self) -> bool:
        return self.type is StateType.SCHEDULED

    def is_pending(self) -> bool:
        return self.type is StateType.PENDING

    def is_running(self) -> bool:
        return self.type is StateType.RUNNING

    def is_paused(self) -> bool:
        return self.type is StateType.PAUSED

    def is_cancelling(self) -> bool:
        return self.type is StateType.CANCELLING

    def is_completed(self) -> bool:
        return self.type is StateType.COMPLETED

    def is_failed(self) -> bool:
        return self.type is StateType.FAILED

    def is_crashed(self) -> bool:
        return self.type is StateType.CRASHED

    def is_cancelled(self) -> bool:
        return self.type is StateType.CANCELLED

    def is_final(self) -> bool:
        return self.type.final

    def with_data(self, data: Any) -> State:
        return replace(self, data=data, has_data=True)

    @property
    def run_id(self) -> str | None:
        """The run whose state it is; None for one that user code made."""
        return self.details.get("run_id")

    def of_run(self, run_id: str) -> State:
        """This state as that of a run."""
        same = (self.type, self.name, self.message, self.timestamp, self.data, self.has_data, self.loader)
        return self if self.run_id == run_id else State(*same, {**self.details, "run_id": run_id})  # as fast as can be

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled with its data, which is fetched for it; without where it cannot be fetched."""
        data, has_data = self.data, self.has_data
        if not has_data and self.loader is not None:
            try:
                data, has_data = self.loader(), True
            except KapstanError:
                data, has_data = None, False
        return State, (self.type, self.name, self.message, self.timestamp, data, has_data, None, self.details)

    def result(self, raise_on_failure: bool = True) -> Any:
        """What the run returned.

        Raises:
            PausedRun, UnfinishedRun: it has not ended.
            RunFailed, CrashedRun, CancelledRun, or the run's own exception: it ended otherwise than Completed
                (returned instead with ``raise_on_failure=False``).
            MissingResult: it completed, and its value was not stored.
        """
        if self.type is StateType.PAUSED:
            if isinstance(self.data, PausedRun):
                raise self.data
            raise PausedRun(f"the run is {self.name.lower()}{': ' + self.message if self.message else ''}")
        if not self.is_final():
            raise UnfinishedRun(f"the run is in state {self.name}; its result comes when it ends")
        data = self.data
        if not self.has_data and self.loader is not None:
            data = self.loader()
        elif not self.has_data and self.type is StateType.COMPLETED:
            raise MissingResult("the run completed, but its result was not stored (persist_result=False?)")
        if self.type is StateType.COMPLETED:
            return data
        error = _raised(data) or _ERRORS[self.type](self.message or None)
        if not raise_on_failure:
            return error
        if not isinstance(error, Exception):  # sys.exit() of a task must not end whoever waits for it
            raise CrashedRun(f"{type(error).__name__}: {error}") from error
        raise error


def _raised(data: Any) -> BaseException | None:
    """The exception that a run ended with: its own, or that of the first of several states that did not complete."""
    if isinstance(data, BaseException):
        return data
    found = cast("Iterable[Any]", data if isinstance(data, (list, tuple, set)) else [data])
    for item in found:
        if isinstance(item, State) and not item.is_completed():
            error = item.result(raise_on_failure=False) if item.is_final() else UnfinishedRun(f"a run is {item.name}")
            return error if isinstance(error, BaseException) else None
    return None


_ERRORS: dict[StateType, type[RunFailed]] = {
    StateType.FAILED: RunFailed,
    StateType.CRASHED: CrashedRun,
    StateType.CANCELLED: CancelledRun,
}


def Scheduled(*, name: str = "Scheduled", message: str = "", **details: Any) -> State:  # noqa: N802
    return State(StateType.SCHEDULED, name, message, details=details)


def AwaitingRetry(*, message: str = "", **details: Any) -> State:  # noqa: N802
    return State(StateType.SCHEDULED, "AwaitingRetry", message, details=details)


def Pending(*, name: str = "Pending", message: str = "") -> State:  # noqa: N802
    return State(StateType.PENDING, name, message)


def Running(*, name: str = "Running", message: str = "") -> State:  # noqa: N802
    return State(StateType.RUNNING, name, message)


def Retrying(*, message: str = "") -> State:  # noqa: N802
    return State(StateType.RUNNING, "Retrying", message)


def Paused(*, name: str = "Paused", message: str = "") -> State:  # noqa: N802
    return State(StateType.PAUSED, name, message)


def expired() -> State:
    """The state of a background run that was not begun by the time that ``expires=`` gave it."""
    return State(StateType.CANCELLED, "Expired", "it was not begun within the time that expires= gave it")


def parked(message: str, doubt: tuple[str, str, str]) -> State:
    """The state of a run whose effect is in doubt (``ports.Doubt``); its ``result()`` raises ParkedRun."""
    return State(StateType.PAUSED, "Parked", message, data=ParkedRun(message, doubt), has_data=True)


def Suspended(*, message: str = "") -> State:  # noqa: N802
    return State(StateType.PAUSED, "Suspended", message)


def Cancelling(*, message: str = "") -> State:  # noqa: N802
    return State(StateType.CANCELLING, "Cancelling", message)


_NO_DATA: Any = object()
_COMPLETED = StateType.COMPLETED


def _final(type_: StateType, name: str, message: str, data: Any) -> State:
    # By position, and with a plain {}: this is on the way of every run, and keywords and defaults are twice the cost.
    known = data is not _NO_DATA
    return State(type_, name, message, time.time(), data if known else None, known, None, {})


def returned(value: Any) -> State:
    """The state of a run whose code returned ``value``: ``Completed(data=value)``, at half the cost."""
    return State(_COMPLETED, "Completed", "", time.time(), value, True, None, {})


def Completed(*, name: str = "Completed", message: str = "", data: Any = _NO_DATA) -> State:  # noqa: N802
    return _final(StateType.COMPLETED, name, message, data)


def Failed(*, name: str = "Failed", message: str = "", data: Any = _NO_DATA) -> State:  # noqa: N802
    return _final(StateType.FAILED, name, message, data)


def Crashed(*, name: str = "Crashed", message: str = "", data: Any = _NO_DATA) -> State:  # noqa: N802
    return _final(StateType.CRASHED, name, message, data)


def Cancelled(*, name: str = "Cancelled", message: str = "", data: Any = _NO_DATA) -> State:  # noqa: N802
    return _final(StateType.CANCELLED, name, message, data)
