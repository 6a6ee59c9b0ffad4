"""Event loops for coroutines of users, where the caller has none: one for each thread."""

from __future__ import annotations

import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from kapstan.engine.branch import number_tasks

if TYPE_CHECKING:
    import asyncio


class Loops(threading.local):
    """The event loop of each thread that runs coroutines: made at the first, kept for the next ones."""

    loop: asyncio.AbstractEventLoop | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Drive ``coroutine`` to its end; a BaseException of a signal handler cancels it first."""
        import asyncio

        if self.loop is None or self.loop.is_closed():
            self.loop = asyncio.new_event_loop()
        number_tasks(self.loop)
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


loops = Loops()


def _cancel_or_report(task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A signal's BaseException that hit one of the loop's own callbacks ends the coroutine; the rest is asyncio's."""
    error = context.get("exception")
    if error is not None and not isinstance(error, Exception):
        task.cancel()
    else:
        loop.default_exception_handler(context)
