"""What serializers raise, in our words, and a target that takes so much and no more."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

from kapstan.errors import BackendError, SerializationError, Unreadable, UnreadableValue, ValueTooLarge


class LongValue(Exception):
    """A value is longer than the caller wants to have in one piece."""


@contextlib.contextmanager
def serialising(what: str, value: Any, by: str = "") -> Generator[None]:
    """Whatever a serializer raises for ``value`` becomes a SerializationError that names ``what`` and its type."""
    try:
        yield
    except (BackendError, LongValue):
        raise
    except ValueTooLarge as error:
        raise error if str(error).startswith(what) else ValueTooLarge(f"{what}: {error}") from error
    except Exception as error:
        how = f" by {by!r}" if by else ""
        raise SerializationError(f"{what} ({type_name(value)}) cannot be serialised{how}: {error}") from error


@contextlib.contextmanager
def reading(by: str) -> Generator[None]:
    """Whatever a serializer raises for bytes that are ours becomes an UnreadableValue."""
    try:
        yield
    except (BackendError, Unreadable):
        raise
    except Exception as error:
        kind = "a pickled value" if by == "pickle" else f"a value written by {by!r}"
        raise UnreadableValue(f"{kind} cannot be loaded here: {type(error).__name__}: {error}") from error


class Bounded:
    """Gathers what is written, up to ``most`` bytes; 0: without a limit."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0
        self.pieces: list[bytes] = []

    def write(self, data: Any) -> None:
        self._size += len(data)
        if self._most and self._size > self._most:
            raise LongValue
        self.pieces.append(bytes(data))


def type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
