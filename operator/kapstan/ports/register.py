"""The register: one object for each key of a task, which tells whether what the key stands for was begun, done, or is
in doubt. It is the truth of exactly-once; a queue may lose what it knows, the register does not.

An object never goes away once it is there, and its ``epoch`` never goes back: so the epoch is a fencing token. What may
follow what stands in ``TRANSITIONS``, which the check of the protocol reads as well.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from kapstan.ids import RunId
from kapstan.states import EffectClass


class RegisterState(enum.StrEnum):
    """What is known of a key."""

    ABSENT = "absent"
    """There is no object; this state is never stored."""
    INTENT = "intent"
    """Its holder may be about to do it, doing it, or have done it."""
    COMMITTED = "committed"
    """It is done, and this is the result."""
    RELEASED = "released"
    """Its holder says that it was not done: its code raised, or never began. Or its transaction has undone it."""
    PARKED = "parked"
    """It was begun, and nobody can tell whether it was done."""
    GRAVE = "grave"
    """It was done, and the result is not kept any more."""


class RegisterEvent(enum.StrEnum):
    """Why a register changes."""

    BEGIN = "begin"
    GUARD = "guard"
    COMMIT = "commit"
    RELEASE = "release"
    TAKE_OVER = "take over"
    PARK = "park"
    APPLIED = "applied"
    NOT_APPLIED = "not applied"
    PUBLISH = "publish"
    REFRESH = "refresh"
    RENEW = "renew"
    BURY = "bury"
    UNDO = "undo"


class Proof(enum.StrEnum):
    """What must be known for an event; whoever asks for it has to know. The register itself compares versions."""

    NOTHING = "nothing"
    IS_HOLDER = "the writer is the holder of this epoch"
    HOLDER_ENDED = "the holder's process has ended, or the holder itself says that its code has"
    SAID_APPLIED = "a probe or a person says that it was done"
    SAID_NOT_APPLIED = "the holder has ended, the effect horizon is over, and a probe or a person says it was not done"
    EXPIRED = "the result has expired by the store's clock, or the task refreshes it"
    OVER = "the retention of the result is over"
    UNDONE = "the hooks for a rollback of the very run that committed it are through"


class Transition(NamedTuple):
    """What an event makes of a state.

    Attributes:
        grows: the epoch becomes the one before + 1; otherwise it stays.
        classes: the effect classes of tasks for which the event is.
    """

    after: RegisterState
    grows: bool
    proof: Proof
    classes: frozenset[EffectClass]


_PURE = frozenset({EffectClass.PURE})
_ONCE = frozenset({EffectClass.AT_MOST_ONCE})
_EFFECT = frozenset(EffectClass) - _PURE
_REPEATABLE = _EFFECT - _ONCE
_ALL = frozenset(EffectClass)
_S, _E = RegisterState, RegisterEvent

TRANSITIONS: Mapping[tuple[RegisterState, RegisterEvent], Transition] = {
    (_S.ABSENT, _E.BEGIN): Transition(_S.INTENT, True, Proof.NOTHING, _EFFECT),
    (_S.RELEASED, _E.BEGIN): Transition(_S.INTENT, True, Proof.NOTHING, _EFFECT),
    (_S.INTENT, _E.GUARD): Transition(_S.INTENT, False, Proof.IS_HOLDER, _EFFECT),
    (_S.INTENT, _E.COMMIT): Transition(_S.COMMITTED, False, Proof.IS_HOLDER, _EFFECT),
    (_S.INTENT, _E.RELEASE): Transition(_S.RELEASED, False, Proof.IS_HOLDER, _EFFECT),
    (_S.INTENT, _E.TAKE_OVER): Transition(_S.INTENT, True, Proof.HOLDER_ENDED, _REPEATABLE),
    (_S.INTENT, _E.PARK): Transition(_S.PARKED, False, Proof.HOLDER_ENDED, _EFFECT),
    (_S.PARKED, _E.COMMIT): Transition(_S.COMMITTED, False, Proof.IS_HOLDER, _EFFECT),
    (_S.PARKED, _E.APPLIED): Transition(_S.COMMITTED, False, Proof.SAID_APPLIED, _EFFECT),
    (_S.PARKED, _E.NOT_APPLIED): Transition(_S.RELEASED, False, Proof.SAID_NOT_APPLIED, _EFFECT),
    (_S.ABSENT, _E.PUBLISH): Transition(_S.COMMITTED, True, Proof.NOTHING, _PURE),
    (_S.RELEASED, _E.PUBLISH): Transition(_S.COMMITTED, True, Proof.NOTHING, _PURE),
    (_S.GRAVE, _E.PUBLISH): Transition(_S.COMMITTED, True, Proof.NOTHING, _PURE),
    (_S.COMMITTED, _E.REFRESH): Transition(_S.COMMITTED, True, Proof.EXPIRED, _PURE),
    (_S.COMMITTED, _E.RENEW): Transition(_S.INTENT, True, Proof.EXPIRED, _EFFECT),
    (_S.GRAVE, _E.RENEW): Transition(_S.INTENT, True, Proof.EXPIRED, _EFFECT),
    (_S.COMMITTED, _E.BURY): Transition(_S.GRAVE, False, Proof.OVER, _ALL),
    (_S.COMMITTED, _E.UNDO): Transition(_S.RELEASED, False, Proof.UNDONE, _ALL),
}
"""Every change that a register may undergo. What is not here is refused."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds an intent, and how its end is known: see ``runs.deaths``.

    Attributes:
        process: a nonce of the start of its process; of a forked process another one.
        intent: a nonce of this run's intents.
        machine: the boot of the machine and the namespaces in which ``pid`` and ``started`` count; "" where unknown.
        started: when the process began, in the ticks of ``/proc``.
        session: the worker session that it is a lane of; "" outside of a worker.
        executor: the mark of the worker's child process; "" outside of a worker.
        host: for people: the host, or the pod.
    """

    run_id: RunId
    process: str
    machine: str = ""
    pid: int = 0
    started: int = 0
    session: str = ""
    executor: str = ""
    host: str = ""
    intent: str = ""


@dataclass(frozen=True, slots=True)
class RegisterRecord:
    """What an object of the register says.

    Attributes:
        nonce: of this very write.
        effect: class of the task that wrote it.
        holder: of the intent of this epoch; kept when that ends.
        at: Unix seconds of this write by the store's clock, as far as its writer knew it.
        begun: the same of the intent of this epoch.
        outcome: ``completed`` of a result; ``failed`` or ``crashed`` of a release whose code raised; else "".
        result: the envelope of the result or failure, signed for this key; b"" for none.
        expires: Unix seconds by the store's clock from which on the result is not used any more; None: never.
        evidence: what a person should know who is to decide.
        told: background runs that ended as failed under this key, each with the token of the claim that did; the
            newest last. It outlives epochs, since a queue may forget that it told so.
        inputs: digest of the arguments that the key stands for, where the key does not tell them; else "".
        inputs_shown: the same for people.
    """

    state: RegisterState
    epoch: int
    nonce: str
    effect: EffectClass = EffectClass.PURE
    holder: Holder | None = None
    at: float = 0.0
    begun: float = 0.0
    outcome: str = ""
    result: bytes = b""
    expires: float | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict[str, Any])
    told: Mapping[RunId, str] = field(default_factory=dict["RunId", str])
    inputs: str = ""
    inputs_shown: str = ""


class Entry(NamedTuple):
    """A record, and the version of the object that a change of it names."""

    record: RegisterRecord
    version: str


class RegisterKey(NamedTuple):
    """A key of a task."""

    task: str
    """Identity."""
    key: str
    """What the run's key is made to, in characters of base 32."""
    storage: str = ""
    """Where its object is: an address of ``Backend.conditional``; "": in the store of the namespace."""

    @property
    def text(self) -> str:
        """Key and storage, as people and the queue name it."""
        return f"{self.key}@{self.storage}" if self.storage else self.key

    @classmethod
    def of(cls, task: str, text: str) -> RegisterKey:
        """The key of ``task`` that has this ``text``."""
        key, _, storage = text.partition("@")
        return cls(task, key, storage)


class Register(Protocol):
    """The registers of one namespace.

    Raises (every method):
        StoreUnavailable: no answer; whether a change landed is unknown.
        StoreRefused: the store said no.
        SignatureError, StoreUnsafe: the object was not written by Kapstan for this key, or by a newer release. It never
            counts as absent.
    """

    def read(self, key: RegisterKey) -> Entry | None:
        """What is known of ``key``; None: nothing."""
        ...

    def change(
        self, key: RegisterKey, before: Entry | None, event: RegisterEvent, effect: EffectClass, **fields: Any
    ) -> Entry | None:
        """Apply ``event`` to ``before``: the new entry, or None if the object is not as ``before`` says any more.

        Args:
            before: what ``read`` or ``change`` gave; None: nothing is known of the key.
            effect: class of the task that asks.
            fields: of the new record; what is not named is kept where the epoch stays, else it begins anew but for
                ``told``.

        Raises:
            ImpossibleChange: ``TRANSITIONS`` has no such change.
        """
        ...

    def all_keys(self, storage: str = "") -> Iterator[RegisterKey]:
        """Every key that has an object in ``storage``."""
        ...

    def path(self, key: RegisterKey) -> str:
        """Where the object stands in the store; results are signed for it."""
        ...
