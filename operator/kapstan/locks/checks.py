"""What callers may ask for, and what is said to those who do not hold a lock."""

from __future__ import annotations

from typing import TypeGuard

from kapstan.errors import LockLost, NotLockHolder
from kapstan.ports import LockHolder

_LONGEST = 1e10  # seconds; no number that overflows where it is counted in milliseconds


def check(key: object, holder: object, hold: object, look: bool) -> None:
    """Raises:
    ValueError: a key or a holder that is no text or empty, or a hold that is no number of seconds above 0.
    """
    for name, text in (("key", key), ("holder", "-" if look else holder)):
        if not isinstance(text, str) or not text:
            raise ValueError(f"{name}={text!r}: give a text of at least one character")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{name}={text!r}: it has a character that UTF-8 cannot write (a lone surrogate)"
            ) from None
    if hold is not None and not (_is_number(hold) and 0 < hold <= _LONGEST):  # not nan, which no comparison ends
        raise ValueError(f"hold_timeout={hold!r}: give a number of seconds above 0, or None")


def check_timeout(timeout: object, name: str) -> None:
    """Raises:
    ValueError: it is no number of seconds, nor None.
    """
    if timeout is not None and not (_is_number(timeout) and timeout == timeout):
        raise ValueError(f"{name}={timeout!r}: give a number of seconds, or None")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def not_held(key: str, holder: str, there: LockHolder | None, token: int | None) -> NotLockHolder:
    """The error for a ``holder`` that had ``key`` under ``token``, or never had it (None)."""
    now = "nobody holds it" if there is None else f"{there.holder!r} holds it ({there.process})"
    shown = key if len(key) <= 100 else f"{key[:100]}..."
    if token is None:
        return NotLockHolder(f"The lock {shown!r} is not held by {holder!r}: {now}")
    return LockLost(f"The lock {shown!r}, which {holder!r} had under token {token}, was lost: {now}")
