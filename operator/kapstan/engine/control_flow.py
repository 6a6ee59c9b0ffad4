"""What, raised by code of the user's, is meant for whoever called it, and what ends its own run only."""

from __future__ import annotations

import sys
import threading

from kapstan.engine.limits import TimeUp
from kapstan.errors import CancelRun, Fenced, HandBack, JournalLost, Parked


def ends_the_caller(error: BaseException) -> bool:
    """Whether ``error``, no Exception, is meant for whoever called the user's code: it was told to end, or it is over
    its time. Anything else (``sys.exit()``, a cancellation that nobody asked this asyncio task for) is the code's own
    doing and ends its run only."""
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
