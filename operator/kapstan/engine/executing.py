"""Whether flow runs execute in this process: a task that is called without a context may have been meant for one."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager

_executing = 0


@contextmanager
def executing() -> Generator[None]:
    """Context manager: a flow run executes in this process."""
    global _executing
    with _executing_lock:
        _executing += 1
    try:
        yield
    finally:
        with _executing_lock:
            _executing -= 1


def executing_flows() -> int:
    """How many flow runs execute in this process."""
    return _executing


_executing_lock = threading.Lock()


def _after_fork() -> None:
    global _executing, _executing_lock
    _executing, _executing_lock = 0, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
