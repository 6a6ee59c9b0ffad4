"""Every exception Kapstan raises, in one tree; a class's docstring is its default message.

KapstanError
├── ConfigurationError          a setting, name or option that cannot work
│   ├── UnknownSetting
│   ├── DuplicateTask           two tasks of one identity in a process
│   ├── OtherFlow               a run's journal is of another flow
│   ├── CachePolicyConflict (also ValueError)   cache policies whose settings differ are added
│   ├── RunExpired              a run's journal was removed when its time was over
│   └── InvalidResource         a custom resource that the API server would refuse, too
├── SerializationError          a value that no allowed serializer carries
│   ├── ValueTooLarge
│   ├── SignatureError (Unreadable)   an envelope unsigned, signed by another key, or moved
│   └── UnreadableValue (Unreadable)  its class is gone here, or it is no value of this release
├── Unreadable                  a stored value that can never be read here; waiting does not help
├── BackendError                a service that Kapstan needs
│   ├── QueueUnavailable
│   │   └── QueueFull           Redis has no memory for new runs
│   ├── StoreUnavailable
│   ├── StoreUnsafe             conditional writes that do not hold
│   ├── StoreRefused            the store answers, and the answer is no
│   ├── LockUnavailable         the service that keeps a lock
│   │   └── LockUnreadable      what it keeps of this one is damaged
│   ├── ClusterUnavailable
│   └── ClusterRefused          the API server answers, and the answer is no
│       ├── QuotaUsedUp         ... until something else has ended
│       └── AdmissionRefused    ... until the object or the cluster's policy is changed
├── KeyExpired                  the key of a task with an effect was used so long ago that its result is not kept
├── ImpossibleChange            a register was to change as the protocol does not let it
├── Conflict                    somebody else was first
│   ├── IdempotencyConflict     one key, two different requests
│   │   └── KeyConflict         ... to a task with an effect, under a key of the user's own
│   ├── HalfDone                a block of effects.inbox committed in its middle
│   └── ResourceConflict        a newer version of the object exists
├── NotFound
├── NotLockHolder (also ValueError)   whoever gives a lock back does not hold it
│   └── LockLost                ... any more
├── RunFailed                   what a future raises when there is no exception of the user's to raise
│   ├── CrashedRun
│   ├── CancelledRun
│   ├── PausedRun
│   │   └── ParkedRun           its effect may have happened; a person or a probe must decide
│   ├── UnfinishedRun
│   ├── MissingResult (also Unreadable)
│   ├── UnknownRun              the queue never knew it, lost it, or its record has expired
│   └── TaskTimeout (also TimeoutError)
├── ParameterError              arguments that do not fit the signature
│   ├── ParameterTypeError
│   ├── UnkeyableInput          no key can stand for its content
│   ├── MappingLengthMismatch
│   └── MappingMissingIterable
└── MissingContextError         called outside a run

Control flow, BaseException so that no ``except Exception`` of a user's swallows it:
Fenced (another attempt took over), HandBack (SIGTERM of a drain), CancelRun, Parked (a person must decide), JournalLost
(nothing can be recorded any more).
"""

from __future__ import annotations


class KapstanError(Exception):
    """Something in Kapstan went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or " ".join((self.__doc__ or "").split()))


class ConfigurationError(KapstanError):
    """A setting, name or option cannot work as given."""


class UnknownSetting(ConfigurationError):
    """An environment variable that begins with KAPSTAN_ names no setting."""


class DuplicateTask(ConfigurationError):
    """Two tasks of this process have the same identity; give one of them another ``name``."""


class OtherFlow(ConfigurationError):
    """The run was begun with another flow."""


class CachePolicyConflict(ConfigurationError, ValueError):
    """Cache policies with different storages, isolation levels or lock managers cannot be added."""


class RunExpired(ConfigurationError):
    """The run has ended, and its journal was removed when its time was over."""


class InvalidResource(ConfigurationError):
    """A custom resource breaks its schema or its rules.

    ``problems`` holds (field path, message) pairs, such as ``("spec.replicas", "must be at least 0")``.
    """

    def __init__(self, problems: list[tuple[str, str]], *, kind: str = "resource", name: str = "") -> None:
        self.problems = problems
        lines = "\n".join(f"  {path}: {message}" if path else f"  {message}" for path, message in problems)
        super().__init__(f"{kind} {name!r} is invalid:\n{lines}")


class SerializationError(KapstanError):
    """A value cannot be serialised by any serializer that is allowed."""


class ValueTooLarge(SerializationError):
    """A value is larger than the limit."""


class Unreadable(KapstanError):
    """A stored value cannot be read by this process, now or later: its code, keys or the value itself must change.

    A service that is away raises BackendError instead, and waiting for it helps.
    """


class UnreadableValue(SerializationError, Unreadable):
    """A stored value cannot be loaded here: its class is gone, or pickled values are not allowed."""


class SignatureError(SerializationError, Unreadable):
    """An envelope is unsigned, signed by a key that is not ours, or was moved from its place."""


class BackendError(KapstanError):
    """A service that Kapstan needs does not answer as it must."""


class QueueUnavailable(BackendError):
    """Redis does not answer, or takes no writes.

    ``accepted`` holds the ids of the runs of a bulk submit that were accepted all the same; they will run.
    """

    accepted: tuple[str, ...] = ()


class QueueFull(QueueUnavailable):
    """Redis has no memory left for new runs; what is queued goes on. Submit again when workers have caught up."""


class StoreUnavailable(BackendError):
    """The object store does not answer; whether the last write landed is unknown."""


class StoreRefused(BackendError):
    """The object store refused the request (credentials, bucket, signature); repeating it cannot help."""


class StoreUnsafe(BackendError):
    """The object store, or something in front of it, does not honour conditional writes."""


class LockUnavailable(BackendError):
    """The service that keeps a lock does not answer; nothing is locked by that."""


class LockUnreadable(LockUnavailable):
    """What is kept of this lock cannot be read: whoever held it may hold it still. Other locks are not touched."""


class ClusterUnavailable(BackendError):
    """The API server does not answer."""


class ClusterRefused(BackendError):
    """The API server refused the request: rights, a quota or an admission rule; its own words say which."""


class QuotaUsedUp(ClusterRefused):
    """A ResourceQuota of the namespace leaves no room for the object."""


class AdmissionRefused(ClusterRefused):
    """An admission rule of the cluster (a policy, a webhook, a LimitRange) does not let the object in."""


class ForeignObject(ClusterRefused):
    """An object that belongs to somebody else has the name; it is neither adopted nor touched."""


class KeyExpired(KapstanError):
    """What this key stands for was done, and its result is not kept any more; it is not done again."""


class ImpossibleChange(KapstanError):
    """A register was to change in a way that the protocol does not know."""


class Conflict(KapstanError):
    """Somebody else was first."""


class IdempotencyConflict(Conflict):
    """This idempotency key was used before with other arguments or another task."""


class KeyConflict(IdempotencyConflict):
    """The key of a task with an effect stands for a call with other arguments: neither is executed under it again."""


class HalfDone(Conflict):
    """A block of ``effects.inbox`` was committed in its middle; whether all of its effects are there is unknown."""


class ResourceConflict(Conflict):
    """The object exists already, or a newer version of it does."""


class NotFound(KapstanError):
    """No such object."""


class NotLockHolder(KapstanError, ValueError):
    """The lock is not held by this holder."""


class LockLost(NotLockHolder):
    """This holder had the lock and lost it: by ``hold_timeout``, or because its keeper was silent for a lease."""


class NotPossible(ConfigurationError):
    """The run's state does not allow what was asked."""


class RunFailed(KapstanError):
    """The run ended without a result."""


class CrashedRun(RunFailed):
    """The run crashed: its process died or could not go on."""


class CancelledRun(RunFailed):
    """The run was cancelled."""


class PausedRun(RunFailed):
    """The run is paused."""


class ParkedRun(PausedRun):
    """The run was broken off and its effect may or may not have happened; a person or a probe must decide."""

    def __init__(self, message: str = "", doubt: tuple[str, str, str] | None = None) -> None:
        """``doubt``: which effect nobody knows of, as ``ports.Doubt``."""
        super().__init__(message)
        self.doubt = doubt


class UnfinishedRun(RunFailed):
    """The run has not finished yet."""


class MissingResult(RunFailed, Unreadable):
    """The run finished, but its result is not stored."""


class UnknownRun(RunFailed):
    """The queue does not know the run: never accepted, lost with its last writes, or its record has expired."""


class TaskTimeout(RunFailed, TimeoutError):
    """The run took longer than its ``timeout_seconds``."""


class ParameterError(KapstanError):
    """The arguments do not fit the function's signature."""


class ParameterTypeError(ParameterError):
    """An argument is not of the type that the signature names."""


class UnkeyableInput(ParameterError):
    """No key can stand for the content of an argument."""


class MappingLengthMismatch(ParameterError):
    """The iterables given to ``map`` have different lengths."""


class MappingMissingIterable(ParameterError):
    """``map`` was called without any iterable argument."""


class MissingContextError(KapstanError):
    """There is no run here: call this inside a flow or a task."""


class Fenced(BaseException):
    """A newer attempt of this run has taken over; this one must stop without writing anything."""


class HandBack(BaseException):
    """This process was asked to end (SIGTERM): the attempt ends here and another one goes on."""


class CancelRun(BaseException):
    """This run was cancelled."""


class TransactionError(KapstanError):
    """A transaction is used in a way that it cannot be."""


class TransactionRolledBack(KapstanError):
    """An earlier attempt of the run has begun to undo this transaction: nothing new is started in it."""


class Parked(BaseException):
    """The run cannot go on without a person: it would repeat an effect, or cannot tell.

    Args:
        cause: what the task run says with which it parks (``State.data``); None: it parks for something else.

    Attributes:
        doubt: which effect nobody knows of, as ``ports.Doubt``.
    """

    def __init__(self, message: str, cause: object = None) -> None:
        super().__init__(message)
        self.doubt = cause.doubt if isinstance(cause, ParkedRun) else None


class JournalLost(BaseException):
    """The store does not take this run's records any more; what would follow could be lost, so the attempt ends."""
