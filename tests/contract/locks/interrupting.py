"""An exception at any line of taking a lock and giving it back, as of Ctrl-C or a time limit.

In a process of its own (``program``), which can be killed: what is wrong here may hang where no alarm is heard.
"""

from __future__ import annotations

import linecache
import sys
from types import FrameType
from typing import Any

from kapstan.locking import LockManager

_TRACED = ("/kapstan/locking.py", "/kapstan/locks/", "/kapstan/queue/locks.py")
_MOST = 2000
_NO_CALL = ("with ", "try:")
"""Lines at which Python runs no handler of a signal, though it shows them to a tracer: also at the end of a block."""


class Interrupt(BaseException):
    pass


class Interrupter:
    """Traces the lines of a manager; at the ``at``-th it raises. -1: only counts."""

    def __init__(self, at: int) -> None:
        self._at = at
        self.lines = 0

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        file = frame.f_code.co_filename
        if not any(part in file for part in _TRACED):
            return None
        if event == "line" and not linecache.getline(file, frame.f_lineno).strip().startswith(_NO_CALL):
            self.lines += 1
            if self.lines == self._at:
                raise Interrupt
        return self


def hold(manager: LockManager, key: str, at: int) -> bool:
    """Whether it was interrupted."""
    interrupter = Interrupter(at)
    before = sys.gettrace()
    sys.settrace(interrupter)
    try:
        with manager.lock(key, 20):
            pass
    except Interrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def everywhere(manager: LockManager, key: str) -> int:
    """At how many lines it was interrupted; each time the lock was free at once, and nothing was left in the list of
    those that wait."""
    hold(manager, key, -1)  # the first use makes more than a lock
    waits: Any = manager._locks()
    for at in range(1, _MOST):
        name = f"{key}-{at}"
        interrupted = hold(manager, name, at)
        assert manager.acquire_lock(name, "b", 5), at
        manager.release_lock(name, "b")
        assert not waits._waits, at
        if not interrupted:
            return at - 1
    raise AssertionError(f"more than {_MOST} lines")
