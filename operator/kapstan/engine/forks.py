"""A process that the code of a run forks (``os.fork``) is no part of the run: it does what it was forked for and ends.

If it comes back into the run instead (returns from the function, calls a task, lets the event loop go on), it ends with
one line: it must not record, nor do once more, what the process does that it was forked from. A child of
``multiprocessing`` runs its target alone and never comes back; it may call tasks, which are recorded nowhere.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections import deque
from typing import Any, NoReturn

from kapstan import context

logger = logging.getLogger("kapstan.engine")

process = object()
"""Stands for this process: another object in a forked one."""


def check(before: object) -> None:
    """End this process if it was forked since ``process`` was ``before``."""
    if process is not before:
        leave()


def check_call(what: str) -> None:
    """End this process if it calls ``what`` and the code of a run forked it, other than by ``multiprocessing``."""
    if context.forked_off and _process_object() is _forked_under:
        _end(f"called {what}", 1)


def leave(error: BaseException | None = None) -> NoReturn:
    """End this process, which has come back into the run: with 0, with 1 after ``error``, with what ``sys.exit`` of its
    own asked for."""
    if isinstance(error, SystemExit):
        if isinstance(error.code, str):
            logger.error("%s", error.code)
        _exit(error.code if isinstance(error.code, int) else 0 if error.code is None else 1)
    if error is None:
        _end("came back into it", 0)
    _end(f"came back into it with {type(error).__name__}: {error}", 1)


def _end(what: str, code: int) -> NoReturn:
    logger.error(
        "A process that the code of a run has forked %s. It is no part of the run, and ends here (pid %d). End a "
        "forked process with os._exit(), or use multiprocessing",
        what,
        os.getpid(),
    )
    _exit(code)


def _exit(code: int) -> NoReturn:
    """At once: what stands on the stack below is the run's."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


# ---------------------------------------------------------------------------------------------- the fork itself

_forking = threading.local()
_forked_under: Any = None
"""What ``multiprocessing`` called the process when it was forked; its own children are called otherwise."""


def _process_object() -> Any:
    module = sys.modules.get("multiprocessing.process")
    return None if module is None else module.current_process()


def _before() -> None:
    """In the child asyncio says that no loop runs, though it does."""
    events = sys.modules.get("asyncio.events")
    _forking.loop = None if events is None else events._get_running_loop()
    _forking.task = None if _forking.loop is None else sys.modules["asyncio"].current_task()


def _after() -> None:
    global process, _forked_under
    process = object()
    _forked_under = _process_object()
    loop, task = _forking.loop, _forking.task
    if loop is None or not context.forked_off:
        return

    def leave_loop() -> None:
        leave(task.exception() if task is not None and task.done() and not task.cancelled() else None)

    # What else is ready on this loop is the parent's, so this comes first where the loop lets it.
    loop.call_soon(leave_loop)
    ready = getattr(loop, "_ready", None)
    if isinstance(ready, deque):
        ready.rotate(1)


os.register_at_fork(before=_before, after_in_child=_after)
