"""A time limit on the main thread borrows SIGALRM and its timer: whoever had them is served, then and later."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kapstan.alarm import Theirs
from kapstan.engine import limits
from kapstan.errors import TaskTimeout

Rang = list[float]


@pytest.fixture
def rang() -> Iterator[Rang]:
    """When an alarm of somebody else's rang, whose handler is set; the alarm of the test's own limit is kept aside."""
    test = Theirs()
    heard: Rang = []
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    signal.signal(signal.SIGALRM, lambda _number, _frame: heard.append(time.monotonic()))
    yield heard
    test.go_on()


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline


def test_an_alarm_of_somebody_else_rings_while_code_runs_under_a_limit(rang: Rang) -> None:
    """A test runner's limit, for one: it came only when the code had ended, and never for code that hung."""
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    limits.within(60.0, lambda: until(lambda: rang))
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert len(rang) == 1


def test_what_their_handler_raises_ends_the_code(rang: Rang) -> None:
    class Told(BaseException):
        pass

    def tell(_number: int, _frame: Any) -> None:
        raise Told

    signal.signal(signal.SIGALRM, tell)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    with pytest.raises(Told):
        limits.within(60.0, lambda: limits.within(50.0, lambda: until(lambda: False)))
    assert (signal.getitimer(signal.ITIMER_REAL), signal.getsignal(signal.SIGALRM)) == ((0.0, 0.0), tell)
    assert not rang


def test_one_that_rings_again_and_again_does_so_meanwhile_and_afterwards(rang: Rang) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.03)
    with pytest.raises(TaskTimeout):
        limits.within(0.5, lambda: until(lambda: False))
    assert len(rang) > 3
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    assert (0.0 < left <= 0.03, round(interval, 6)) == (True, 0.03)


def test_one_that_rings_once_is_never_given_an_interval(rang: Rang) -> None:
    signal.setitimer(signal.ITIMER_REAL, 120.0)
    for _ in range(3):
        with contextlib.suppress(TaskTimeout):
            limits.within(0.02, lambda: limits.within(0.01, lambda: until(lambda: False)))
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        assert 110.0 < left <= 120.0
        assert interval == 0.0
    assert not rang


class Interrupt(BaseException):
    pass


@pytest.mark.parametrize("place", range(8))
@pytest.mark.parametrize("name", ["setitimer", "signal"])
def test_a_handler_of_another_signal_that_raises_leaves_nothing_armed(
    rang: Rang, monkeypatch: pytest.MonkeyPatch, place: int, name: str
) -> None:
    """Ctrl-C between two steps of taking the alarm or of giving it back, at each of them."""
    handler = signal.getsignal(signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, 120.0)
    calls, real = 0, getattr(signal, name)

    def interrupted(*args: Any) -> Any:
        nonlocal calls
        answer = real(*args)
        calls += 1
        if calls == place + 1:
            raise Interrupt
        return answer

    monkeypatch.setattr(signal, name, interrupted)
    with contextlib.suppress(Interrupt):
        limits.within(50.0, lambda: limits.within(40.0, lambda: None))
    monkeypatch.undo()
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    assert 110.0 < left <= 120.0
    assert (interval, signal.getsignal(signal.SIGALRM)) == (0.0, handler)
    assert not rang


def test_a_forked_process_gets_no_timer_of_its_parents(rang: Rang) -> None:
    signal.setitimer(signal.ITIMER_REAL, 120.0)
    read, write = os.pipe()
    parent = os.getpid()

    def body() -> None:
        os.fork()

    limits.within(60.0, body)
    if os.getpid() != parent:
        os.write(write, repr(signal.getitimer(signal.ITIMER_REAL)).encode())
        os._exit(0)
    os.close(write)
    with open(read) as said:
        assert said.read() == "(0.0, 0.0)"
    os.wait()
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 110.0
    assert not rang


_KILL_SWITCH = """
import signal
from kapstan.engine import limits
signal.alarm(1)  # no handler: it ends the process
limits.within(60.0, lambda: __import__("time").sleep(30))
"""


def test_an_alarm_without_a_handler_ends_the_process_as_it_would() -> None:
    done = subprocess.run([sys.executable, "-c", _KILL_SWITCH], timeout=25, check=False)
    assert done.returncode == -signal.SIGALRM
