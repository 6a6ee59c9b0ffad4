"""Many calls at a time that mostly wait for the store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")
_THREADS = 16


def each(function: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """``function`` of each of ``items``, in order. What one of them raises ends the rest, and is raised."""
    given = list(items)
    found: dict[int, T] = {}
    left = iter(range(len(given)))
    raised: list[BaseException] = []
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                at = None if raised else next(left, None)
            if at is None:
                return
            try:
                found[at] = function(given[at])
            except BaseException as error:  # noqa: BLE001  (raised in the caller's thread)
                raised.append(error)

    threads = [threading.Thread(target=work, name="kapstan-each") for _ in range(min(_THREADS, len(given)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]
    return [found[at] for at in range(len(given))]
