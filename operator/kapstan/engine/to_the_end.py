"""Code that goes on to its end when a time limit around it is up: what a transaction owes is not left half done.

It runs on a thread, or in an asyncio task, that no limit watches; the caller waits, notes that its time is up, and is
told when the code is through. A process that is told to end does not wait.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from kapstan.engine import limits


def to_the_end(body: Callable[[], None]) -> None:
    """``body()``.

    Raises:
        TimeUp: a limit was up meanwhile; ``body`` has ended.
        BaseException: what ``body`` raised.
    """
    if limits.remaining() is None:
        body()
        return
    raised: list[BaseException] = []
    ended = threading.Event()  # a join() that a signal breaks off takes the thread for one that has ended

    def run() -> None:
        try:
            with limits.lifted():
                body()
        except BaseException as error:  # noqa: BLE001  (raised again on the caller's thread)
            raised.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), name="kapstan-end", daemon=True)
    thread.start()
    up: limits.TimeUp | None = None
    while not ended.is_set():
        try:
            ended.wait()
        except limits.TimeUp as error:
            up = error
    if raised or up is not None:
        raise raised[0] if raised else up or limits.TimeUp()


async def ato_the_end(body: Coroutine[Any, Any, None]) -> None:
    """As ``to_the_end``, on the running event loop, also where the caller is cancelled meanwhile."""
    import asyncio

    with limits.lifted():
        context = contextvars.copy_context()
    task = asyncio.get_running_loop().create_task(body, context=context)
    cancelled: BaseException | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except BaseException:  # noqa: BLE001  (of ``body``: see below)
            break
    task.result()
    if cancelled is not None:
        raise cancelled
