"""Waiting on the main thread, where handlers of signals run.

Python runs a handler between two steps of the main thread. A signal that comes just before the thread begins to wait,
or that the kernel gives to another thread, wakes nobody: its handler runs when the wait is over. So the main thread
waits by short stretches.
"""

from __future__ import annotations

import threading

STRETCH = 0.5
"""Seconds after which the main thread looks for signals."""


def stretch(left: float | None) -> float | None:
    """How long this thread may wait at a stretch when ``left`` seconds (None: no end) are left."""
    if threading.current_thread() is not threading.main_thread():
        return left
    return STRETCH if left is None else min(left, STRETCH)
