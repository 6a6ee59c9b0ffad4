"""Calls user code once, under its time limit: plain functions on the main thread or another, coroutines on a loop.

A plain function on the main thread is interrupted by a signal, which also ends a blocking call. On another thread the
exception is set from a timer: it arrives at the next line of Python, so a blocking call in C ends first.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kapstan.engine.functions import asettled, settled
from kapstan.errors import TaskTimeout

if TYPE_CHECKING:
    import asyncio


def call(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], timeout: float | None) -> Any:
    """``fn(*args, **kwargs)``, ended after ``timeout`` seconds; of a generator the list of its items.

    Raises:
        TaskTimeout: it took longer.
    """
    if timeout is None:
        return settled(fn(*args, **kwargs))
    limit = _alarm if threading.current_thread() is threading.main_thread() else _thread_limit
    with limit(timeout):
        return settled(fn(*args, **kwargs))


async def acall(
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    timeout: float | None,  # noqa: ASYNC109  (the user's option)
) -> Any:
    """``await fn(*args, **kwargs)``, ended at an await after ``timeout`` seconds; raises as ``call``."""
    if timeout is None:
        return await asettled(fn(*args, **kwargs))
    import asyncio

    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            return await asettled(fn(*args, **kwargs))
    except TimeoutError as error:
        if limit.expired():
            raise _timed_out(timeout) from error
        raise


class LoopThread(threading.local):
    """One event loop for each thread that runs async tasks: made at the first, kept for the next ones."""

    loop: asyncio.AbstractEventLoop | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Drive ``coroutine`` to its end; a BaseException of a signal handler cancels it first."""
        import asyncio

        if self.loop is None or self.loop.is_closed():
            self.loop = asyncio.new_event_loop()
        task = self.loop.create_task(coroutine)
        self.loop.set_exception_handler(lambda loop, context: _cancel_or_report(task, loop, context))
        try:
            return self.loop.run_until_complete(task)
        except BaseException:
            if not task.done():
                task.cancel()
                self.loop.run_until_complete(asyncio.wait([task]))
            raise

    def run_once(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """As ``run``, and closes the loop."""
        try:
            return self.run(coroutine)
        finally:
            self.close()

    def close(self) -> None:
        """Close the loop of this thread."""
        if self.loop is not None:
            self.loop.close()
            self.loop = None


def _cancel_or_report(task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A signal's BaseException that hit one of the loop's own callbacks ends the coroutine; the rest is asyncio's."""
    error = context.get("exception")
    if error is not None and not isinstance(error, Exception):
        task.cancel()
    else:
        loop.default_exception_handler(context)


def _timed_out(timeout: float) -> TaskTimeout:
    return TaskTimeout(f"took longer than timeout_seconds={timeout:g}")


@contextmanager
def _alarm(timeout: float) -> Generator[None]:
    """SIGALRM after ``timeout``; a limit inside a shorter one adds nothing, a longer one goes on afterwards."""
    import signal
    import time

    outer, _ = signal.getitimer(signal.ITIMER_REAL)
    if 0.0 < outer <= timeout:
        yield
        return

    def ring(_signal: int, _frame: Any) -> None:
        raise _timed_out(timeout)

    before = signal.signal(signal.SIGALRM, ring)
    started = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, max(timeout, 1e-6))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        if outer > 0.0:
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.monotonic() - started), 1e-6))


@contextmanager
def _thread_limit(timeout: float) -> Generator[None]:
    lock = threading.Lock()
    thread = threading.get_ident()
    ended = False

    def ring() -> None:
        with lock:
            if not ended:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TaskTimeout))

    timer = threading.Timer(timeout, ring)
    timer.daemon = True
    timer.start()
    try:
        yield
    except TaskTimeout as error:
        raise (_timed_out(timeout) if timer.finished.is_set() else error) from None
    finally:
        with lock:
            ended = True
        timer.cancel()
