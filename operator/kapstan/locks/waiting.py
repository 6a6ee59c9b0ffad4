"""One call that waits for a lock, on its thread or on its event loop."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from kapstan.main_thread import stretch
from kapstan.ports import Wait

if TYPE_CHECKING:
    import asyncio


class Waiting:
    """A wait and its bell.

    Attributes:
        over: it was given up, and asks no more.
        done: it has what it wanted.
        rung: it was rung by its number.
    """

    def __init__(self, wait: Wait) -> None:
        self.wait = wait
        self.lock = threading.Lock()  # one call of the table at a time, so that giving up comes last
        self.over = False
        self.done = False
        self.rung = False
        self._event = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None

    def use(self, loop: asyncio.AbstractEventLoop) -> None:
        import asyncio

        self._loop, self._wake = loop, asyncio.Event()

    def ring(self) -> None:
        self._event.set()
        if self._loop is not None and self._wake is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                self._loop.call_soon_threadsafe(self._wake.set)

    def clear(self) -> None:
        self._event.clear()
        if self._wake is not None:
            self._wake.clear()

    def sleep(self, seconds: float | None) -> None:
        until = time.monotonic() + (seconds or 0.0)
        while (left := until - time.monotonic()) > 0 and not self._event.wait(stretch(left)):
            pass

    async def asleep(self, seconds: float | None) -> None:
        import asyncio

        if self._wake is not None and not self._event.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), seconds)
