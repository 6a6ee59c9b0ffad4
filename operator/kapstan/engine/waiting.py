"""Giving up one's place while one waits: a thread that waits for another run must not keep that run from starting."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Places(Protocol):
    """What this thread has a place of: the threads of a flow, the lanes of a worker."""

    def without_place(self) -> AbstractContextManager[None]:
        """Another one may take the place of this thread; at the end it has one again."""
        ...


class _Here(threading.local):
    places: Places | None = None


_here = _Here()


def belongs_to(places: Places) -> None:
    """From now on this thread has one of these ``places``."""
    _here.places = places


@contextmanager
def without_place() -> Generator[None]:
    """For code that waits. Nothing happens on a thread that has no place."""
    places = _here.places
    if places is None:
        yield
    else:
        with places.without_place():
            yield
