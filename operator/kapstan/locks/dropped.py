"""Locks that nobody has any more: a backend that is dropped unclosed takes its threads and its keeper along."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any


def weakly(method: Callable[[Any], Any], otherwise: Any) -> Callable[[Any], Any]:
    """``method``, for threads that must not keep its object alive; ``otherwise`` is their answer when that is gone."""
    reference = weakref.WeakMethod(method)

    def call(argument: Any) -> Any:
        there = reference()
        return otherwise if there is None else there(argument)

    return call


def close_when_dropped(owner: object, ends: list[Callable[[], object]]) -> weakref.finalize[Any, Any]:
    """Call all ``ends``, the last one first, when nothing refers to ``owner`` any more; not in a forked process."""
    finalizer = weakref.finalize(owner, _close, ends, os.getpid())
    finalizer.atexit = False
    return finalizer


def _close(ends: list[Callable[[], object]], process: int) -> None:
    """On a thread of its own: it may block, and this may be called between any two lines of any thread."""
    if os.getpid() == process:
        with contextlib.suppress(RuntimeError):  # the interpreter ends, and its locks with it
            threading.Thread(target=_call_all, args=(ends,), name="kapstan-locks-end", daemon=True).start()


def _call_all(ends: list[Callable[[], object]]) -> None:
    while ends:
        ends.pop()()
