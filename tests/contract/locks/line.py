"""The line of those who wait for a lock, seen from a test."""

from __future__ import annotations

import time

from kapstan.locking import LockManager


def await_waiting(manager: LockManager, key: str, count: int) -> None:
    """Block until ``key`` is held and so many wait for it."""
    until = time.monotonic() + 30
    while (there := manager.lock_holder(key)) is None or there.waiting != count:
        assert time.monotonic() < until, there
        time.sleep(0.005)
