"""What the steps of the model are for the real queue."""

from __future__ import annotations

from collections.abc import Callable

from tests.model.queue_steps import ENDS, holds
from tests.model.real import NAMES, Real
from tests.model.state import (
    CANCEL,
    EPOCH,
    ERA,
    FAILED,
    FLAGS,
    HOLDER,
    ID,
    PC,
    QUEUE,
    RAISED,
    T_EPOCH,
    T_ERA,
)

from kapstan.ids import Token

Action = Callable[[Real, int, bytes, bytes, bool], None]


def take(real: Real, name: str, at: int, before: bytes, after: bytes) -> None:
    """Make the step ``name`` of the process at ``at`` for real, and check that it goes as in the model."""
    bare = name.removesuffix(", reply lost")
    action = ACTIONS.get(bare)
    if action is not None:
        action(real, at, before, after, bare != name)


def _token(row: bytes, at: int) -> Token:
    return Token(row[at + T_ERA], row[at + T_EPOCH])


def _claim(real: Real, at: int, before: bytes, after: bytes, lost: bool) -> None:
    token = str(Token(after[ERA], after[EPOCH]))
    assert real.claim(before[at + ID], lost=lost) == (token, bool(before[FLAGS] & CANCEL))


def _give_back(real: Real, at: int, before: bytes, after: bytes, lost: bool) -> None:
    real.give_back(before[at + ID], _token(before, at))


def _hand_in(real: Real, at: int, before: bytes, after: bytes, lost: bool) -> None:
    token = _token(before, at)
    state = NAMES[ENDS.get(before[at + PC], FAILED)]
    counted = real.hand_in(before[at + ID], token, state)
    repeated = before[QUEUE] == after[QUEUE] and (before[ERA], before[EPOCH]) == token
    assert counted == holds(before, before[at + ID], *token) or (counted and repeated)


def _disown(real: Real, at: int, before: bytes, after: bytes, lost: bool) -> None:
    real.disown(before[at + ID], _token(before, at))


def _expire(real: Real, at: int, before: bytes, after: bytes, lost: bool) -> None:
    real.expire(before[HOLDER])
    if before[RAISED]:
        _sessions(real, at, before, after, lost)


def _sessions(real: Real, at: int, before: bytes, after: bytes, lost: bool) -> None:
    """Supervisors that live renew; the first of them raises the era."""
    if after[RAISED]:
        real.open_sessions([after[slot + ID] for slot in real.world.slots if slot < real.world.callers_at])


ACTIONS: dict[str, Action] = {
    "claim": _claim,
    "give back": _give_back,
    "hand in": _hand_in,
    "unknown claim goes back": _disown,
    "lease ends": _expire,
    "lease of the dead ends": _expire,
    "parked run comes back": lambda real, *_: real.rerun(),
    "cancelled": lambda real, *_: real.cancel(),
    "begun once more": lambda real, *_: real.rerun(),
    "era raised": _sessions,
    "crash": _sessions,
    "copied": lambda real, *_: real.copied(),
    "restart as of the copy": lambda real, *_: real.restart(),
}
