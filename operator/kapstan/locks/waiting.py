"""One call that waits for a lock, on its thread or on its event loop."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kapstan.main_thread import stretch
from kapstan.ports import Wait

if TYPE_CHECKING:
    import asyncio


class Waiting:
    """A wait and its bell.

    Attributes:
        over: it was given up, and asks no more.
        rung: it was rung by its number.
    """

    def __init__(self, wait: Wait) -> None:
        self.wait = wait
        self.lock = threading.Lock()  # one call of the table at a time, so that giving up comes last
        self.over = False
        self.rung = False
        self._event = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None

    def use(self, loop: asyncio.AbstractEventLoop) -> None:
        import asyncio

        self._loop, self._wake = loop, asyncio.Event()

    @property
    def on_loop(self) -> bool:
        """It is a coroutine's."""
        return self._loop is not None

    @property
    def stranded(self) -> bool:
        """Its event loop was closed: it never goes on."""
        return self._loop is not None and self._loop.is_closed()

    def ring(self) -> bool:
        """Whether it can hear."""
        self._event.set()
        if self._loop is not None and self._wake is not None:
            try:
                self._loop.call_soon_threadsafe(self._wake.set)
            except RuntimeError:  # its loop is closed
                return False
        return True

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


async def surely(soon: Callable[..., object], call: Callable[[], Any]) -> Any:
    """``call()`` by way of ``soon``; once begun it is carried out, whoever cancels the caller or closes its loop."""
    import asyncio

    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()

    def deliver(result: Any, error: BaseException | None) -> None:
        if answer.done():  # cancelled
            return
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)

    def run() -> None:
        result, raised = None, None
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001
            raised = error
        with contextlib.suppress(RuntimeError):  # its loop is closed
            loop.call_soon_threadsafe(deliver, result, raised)

    soon(run)
    return await answer
