"""Time limits: on the main thread, on another, on an event loop; nested, and over code that swallows what ends it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from kapstan.engine import limits
from kapstan.engine.limits import TimeUp
from kapstan.engine.loops import Loops
from kapstan.errors import HandBack, TaskTimeout


def spin() -> None:
    while True:
        pass


def on_a_thread(body: Callable[[], Any]) -> BaseException:
    """What ``body`` raised on a thread of its own."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            body()
        except BaseException as error:  # noqa: BLE001
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    return raised[0]


def here(body: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as raised:  # noqa: PT011
        body()
    return raised.value


BOTH = pytest.mark.parametrize("place", [here, on_a_thread])


def test_a_blocking_call_on_the_main_thread_is_ended() -> None:
    with pytest.raises(TaskTimeout, match=r"timeout_seconds=0\.05"):
        limits.within(0.05, threading.Event().wait)


@BOTH
def test_python_code_is_ended(place: Callable[[Callable[[], Any]], BaseException]) -> None:
    error = place(lambda: limits.within(0.05, spin))
    assert isinstance(error, TaskTimeout)
    assert "timeout_seconds=0.05" in str(error)


@BOTH
@pytest.mark.parametrize("swallows", [Exception, BaseException])
def test_code_that_swallows_what_ends_it_is_told_again_and_has_timed_out(
    place: Callable[[Callable[[], Any]], BaseException], swallows: type[BaseException]
) -> None:
    told: list[BaseException] = []

    def stubborn() -> str:
        try:
            spin()
        except swallows as error:
            told.append(error)
        return "ran on"

    assert isinstance(place(lambda: limits.within(0.05, stubborn)), TaskTimeout)
    assert [type(error) for error in told] == ([] if swallows is Exception else [TimeUp])


@BOTH
def test_an_outer_limit_ends_code_in_an_inner_one(place: Callable[[Callable[[], Any]], BaseException]) -> None:
    seen: list[BaseException] = []

    def inner() -> None:
        try:
            limits.within(60.0, spin)
        except BaseException as error:
            seen.append(error)
            raise

    error = place(lambda: limits.within(0.05, inner))
    assert "timeout_seconds=0.05" in str(error)
    assert type(seen[0]) is TimeUp  # no TaskTimeout of the inner code, which it might catch


@BOTH
def test_the_outer_limit_goes_on_after_an_inner_one(place: Callable[[Callable[[], Any]], BaseException]) -> None:
    def outer() -> None:
        with contextlib.suppress(TaskTimeout):
            limits.within(0.01, spin)
        spin()

    assert "timeout_seconds=0.1" in str(place(lambda: limits.within(0.1, outer)))


@BOTH
def test_code_that_ends_in_time_is_left_alone_afterwards(place: Callable[[Callable[[], Any]], BaseException]) -> None:
    def many() -> None:
        for _ in range(200):  # limits that are up at about the moment at which their code ends
            with contextlib.suppress(TaskTimeout):
                limits.within(0.001, lambda: time.sleep(0.0009))
        raise KeyError("none of them rang here")

    assert isinstance(place(many), KeyError)


def test_waiting_on_a_thread_ends_with_the_limit() -> None:
    never = threading.Event()
    assert isinstance(on_a_thread(lambda: limits.within(0.05, lambda: limits.wait(never, None))), TaskTimeout)
    assert isinstance(on_a_thread(lambda: limits.within(0.05, lambda: limits.sleep(60.0))), TaskTimeout)


def test_what_ends_the_process_is_no_timeout() -> None:
    def told_to_end() -> None:
        with contextlib.suppress(TimeUp):
            spin()
        raise HandBack

    with pytest.raises(HandBack):
        limits.within(0.05, told_to_end)


def test_an_alarm_of_the_users_goes_on_afterwards() -> None:
    rang: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _frame: rang.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        limits.within(60.0, lambda: None)
        while not rang:
            signal.pause()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert rang == [signal.SIGALRM]


def test_a_coroutine_is_ended_at_an_await() -> None:
    with pytest.raises(TaskTimeout):
        asyncio.run(limits.awithin(0.05, asyncio.Event().wait))


def test_a_coroutine_that_swallows_its_cancellation_has_timed_out() -> None:
    async def stubborn() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "ran on"

    with pytest.raises(TaskTimeout):
        asyncio.run(limits.awithin(0.05, stubborn))


def test_a_cancellation_by_somebody_else_stays_one() -> None:
    async def cancelled() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async def outer() -> None:
        await limits.awithin(5.0, cancelled)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(outer())


def test_a_timeout_of_the_coroutines_own_stays_its_own() -> None:
    async def fail() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        asyncio.run(limits.awithin(5.0, fail))


def test_a_coroutine_on_a_loop_of_ours_is_ended_too() -> None:
    loops = Loops()
    try:
        with pytest.raises(TaskTimeout):
            limits.within(0.05, lambda: loops.run(asyncio.Event().wait()))
    finally:
        loops.close()


_TRACED = """
import sys, threading
from kapstan.engine import limits

def spin():
    while True:
        pass

def swallow():
    try:
        spin()
    except limits.TimeUp:
        pass

def on_a_thread():
    for body in (lambda: None, spin, swallow):
        try:
            limits.within(0.05, body)
        except limits.TaskTimeout:
            pass

thread = threading.Thread(target=on_a_thread)
thread.start()
thread.join()
sys.settrace(lambda *_: None)
spin = lambda: None
spin()
print("traced")
"""


def test_lines_may_be_traced_after_a_limit_on_a_thread() -> None:
    """A debugger or coverage: on Python 3.11 the whole process went round and round at the next call."""
    done = subprocess.run([sys.executable, "-c", _TRACED], timeout=30, check=False, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("traced\n", "")


def test_one_loop_serves_all_async_tasks_of_a_thread() -> None:
    loops = Loops()

    async def which() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    try:
        assert loops.run(which()) is loops.run(which())
    finally:
        loops.close()
