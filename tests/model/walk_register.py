"""What the steps of the model are for the real register."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.model.real_register import RUN, E, RealRegister
from tests.model.state import ANSWER, COMMITTED, CURRENT, FAILURE, HELD, ID, PC, REG, REG_TOLD

from kapstan.ports.register import RegisterEvent, RegisterState

Action = Callable[[RealRegister, int, bytes, bytes, bool], None]


def _look(real: RealRegister, at: int, before: bytes, after: bytes, lost: bool) -> None:
    real.read(before[at + ID])


def _writes(event_of: Callable[[RegisterState | None], RegisterEvent], **fields: Any) -> Action:
    """A write of a process, by what it knows of the register; where that is outdated it fails, and it reads."""

    def write(real: RealRegister, at: int, before: bytes, after: bytes, lost: bool) -> None:
        process = before[at + ID]
        known = real.entries.get(process)
        event = event_of(None if known is None else known.record.state)
        given = fields
        if after[FAILURE] and event is E.RELEASE:
            given = {**given, "outcome": "failed"}
        if known is not None and event is E.RELEASE and after[REG_TOLD] != before[REG_TOLD]:
            given = {**given, "told": {**known.record.told, RUN: str(after[REG_TOLD])}}
        written = real.change(process, event, lost=lost, **given)
        assert written == bool(before[at + CURRENT])
        if not written:
            real.read(process)

    return write


def _intend(real: RealRegister, at: int, before: bytes, after: bytes, lost: bool) -> None:
    process = before[at + ID]
    _writes(_beginning)(real, at, before, after, lost)
    if not before[at + CURRENT]:
        there, unheard = real.entries[process], real.unheard.pop(process, None)
        assert (after[at + PC] == HELD) == (there is not None and unheard is not None and there == unheard)


def _beginning(state: RegisterState | None) -> RegisterEvent:
    events = {RegisterState.INTENT: E.TAKE_OVER, RegisterState.COMMITTED: E.RENEW, RegisterState.GRAVE: E.RENEW}
    return E.BEGIN if state is None else events.get(state, E.BEGIN)


def _asked(real: RealRegister, at: int, before: bytes, after: bytes, lost: bool) -> None:
    real.asked = real.register.read(real.key)


def _answered(real: RealRegister, at: int, before: bytes, after: bytes, lost: bool) -> None:
    real.by_another(E.APPLIED if after[REG] == COMMITTED else E.NOT_APPLIED)


def _late_answer(real: RealRegister, at: int, before: bytes, after: bytes, lost: bool) -> None:
    real.by_another(E.APPLIED if before[ANSWER] == 1 else E.NOT_APPLIED, real.asked)


def _looked(real: RealRegister, at: int, before: bytes, after: bytes, lost: bool) -> None:
    real.looked = real.register.read(real.key)


ACTIONS: dict[str, Action] = {
    "look": _look,
    "intend": _intend,
    "intend, 412": _intend,
    "guard": _writes(lambda _: E.GUARD),
    "commit": _writes(lambda _: E.COMMIT, outcome="completed"),
    "commit, 412": _writes(lambda _: E.COMMIT),
    "publish": _writes(lambda state: E.REFRESH if state is RegisterState.COMMITTED else E.PUBLISH),
    "publish, 412": _writes(lambda state: E.REFRESH if state is RegisterState.COMMITTED else E.PUBLISH),
    "release its own": _writes(lambda _: E.RELEASE),
    "park its own": _writes(lambda _: E.PARK),
    "park": _writes(lambda _: E.PARK),
    "asked": _asked,
    "asked and answered": _answered,
    "answer written": _late_answer,
    "undone": lambda real, *_: real.by_another(E.UNDO, outcome="", result=b""),
    "about to be undone": _looked,
    "undone late": lambda real, *_: real.by_another(E.UNDO, real.looked, outcome="", result=b""),
    "buried": lambda real, *_: real.by_another(E.BURY),
}
