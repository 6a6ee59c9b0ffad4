"""What is done for waiting coroutines from outside of their event loop: they leave the line when they end without the
lock, and when their loop was closed, so that nobody is there any more to do it.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable

from kapstan.locks.waiting import Waiting


class LoopWatch:
    """A thread that does it, and looks once a beat for closed loops, for as long as coroutines wait.

    Args:
        look: ends the waits of closed loops; whether other coroutines wait.
        give_up: takes a wait out of its line.
    """

    def __init__(self, beat: float, look: Callable[[], bool], give_up: Callable[[Waiting], object]) -> None:
        self._beat = beat
        self._look = look
        self._give_up = give_up
        self._lock = threading.Lock()
        # May be put to by a coroutine that the garbage collector ends, between any two steps of any thread.
        self._ended: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """A coroutine waits; called after it was noted as one."""
        with self._lock, contextlib.suppress(RuntimeError):  # the interpreter ends, and its loops with it
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="kapstan-lock-loops", daemon=True)
                thread.start()
                self._thread = thread

    def leave(self, waiting: Waiting) -> None:
        """Its call ends; called while it is still noted as one that waits."""
        self._ended.put(waiting)
        if self._thread is None:
            self._take()

    def look_now(self) -> None:
        self._ended.put(None)

    def _take(self, wait: float = 0.0) -> None:
        with contextlib.suppress(queue.Empty):
            waiting = self._ended.get(timeout=wait)
            while True:
                if waiting is not None:
                    self._give_up(waiting)
                waiting = self._ended.get_nowait()

    def _run(self) -> None:
        while True:
            self._take(self._beat)
            if self._look():
                continue
            with self._lock:
                if not self._look() and self._ended.empty():
                    self._thread = None
                    return
