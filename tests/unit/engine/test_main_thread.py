"""Signals that wake nobody: the kernel gave them to another thread, or they came just before a wait began."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import pytest

from kapstan.engine import limits


def heard(wait: Callable[[threading.Event], object], patience: float) -> bool:
    """Whether the handler of a signal ran on this thread while it waited for an event that comes after ``patience``."""
    rang, ended = threading.Event(), threading.Event()
    seen: list[bool] = []

    def ring() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        seen.append(rang.wait(patience))
        ended.set()

    before = signal.signal(signal.SIGUSR1, lambda *_: rang.set())
    timer = threading.Timer(0.2, ring)
    try:
        timer.start()
        wait(ended)
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    return seen[0]


def test_the_fault_bites() -> None:
    assert not heard(threading.Event.wait, 2.0)


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_a_wait_for_a_run_hears_the_signal(timeout: float | None) -> None:
    assert heard(lambda ended: limits.wait(ended, timeout), 30.0)
