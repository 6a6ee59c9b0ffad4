"""A thread that waits for another run gives up its place, so that it cannot keep that run from starting."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Places(Protocol):
    """Where this thread has a place: among the threads of a flow, or the lanes of a worker."""

    def without_place(self) -> AbstractContextManager[None]:
        """Context manager: another thread may take this one's place; at the end it has one again."""
        ...


class _Here(threading.local):
    places: Places | None = None


_here = _Here()
_NOWHERE = nullcontext()


def belongs_to(places: Places) -> None:
    """From now on this thread has one of these ``places``."""
    _here.places = places


def without_place() -> AbstractContextManager[None]:
    """Context manager for code that waits. Does nothing on a thread without a place."""
    places = _here.places
    return _NOWHERE if places is None else places.without_place()
