"""An exception that one thread sets in another: it arrives there at the next line of Python."""

from __future__ import annotations

import contextlib
import ctypes
import threading


def set_in(thread: int, error: type[BaseException]) -> None:
    """In place of one that was set there and has not arrived."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


class _TakenBack(BaseException):
    """Arrives in place of what was set."""


def take_back() -> None:
    """What is set in this thread never arrives.

    Not by setting None: Python 3.11 would look for an exception for ever after, and a process whose lines are traced,
    by a debugger or by coverage, would do nothing else.
    """
    with contextlib.suppress(_TakenBack):
        set_in(threading.get_ident(), _TakenBack)
        while True:
            pass
