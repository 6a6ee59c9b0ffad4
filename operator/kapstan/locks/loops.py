"""Whether the event loop of a waiting coroutine was closed: then nobody is there any more to leave the line."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable


class LoopWatch:
    """A thread that looks once a beat, for as long as coroutines wait.

    Args:
        look: ends the waits of closed loops; whether other coroutines wait.
    """

    def __init__(self, beat: float, look: Callable[[], bool]) -> None:
        self._beat = beat
        self._look = look
        self._lock = threading.Lock()
        self._now = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """A coroutine waits; called after it was noted as one."""
        with self._lock, contextlib.suppress(RuntimeError):  # the interpreter ends, and its loops with it
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="kapstan-lock-loops", daemon=True)
                thread.start()
                self._thread = thread

    def look_now(self) -> None:
        self._now.set()

    def _run(self) -> None:
        while True:
            self._now.wait(self._beat)
            self._now.clear()
            if self._look():
                continue
            with self._lock:
                if not self._look():
                    self._thread = None
                    return
