"""Which exceptions of a user's code are meant for its caller, and which end only its own run."""

from __future__ import annotations

import sys
import threading

from kapstan.engine.limits import TimeUp
from kapstan.errors import CancelRun, Fenced, HandBack, JournalLost, Parked


def ends_the_caller(error: BaseException) -> bool:
    """Whether ``error``, a BaseException that is no Exception, is meant for the caller of the user's code: the process
    was asked to end, or the time is over. Anything else (``sys.exit()``, a cancellation that nobody asked this asyncio
    task for) is the code's own doing and ends its run only."""
    if isinstance(error, (Fenced, HandBack, CancelRun, JournalLost, Parked, TimeUp, GeneratorExit)):
        return True
    if isinstance(error, KeyboardInterrupt):
        return threading.current_thread() is threading.main_thread()
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or not isinstance(error, asyncio.CancelledError):
        return False
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and task.cancelling() > 0
