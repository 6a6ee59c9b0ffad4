"""What a flow does at the edges: limits, code that exits, nested waiting, states as values, equal calls in branches."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from kapstan import flow, states, task
from kapstan.errors import CrashedRun, TaskTimeout


def spin() -> None:
    while True:
        time.sleep(0.01)


@task(name="semantics-1-spins", retries=2)
def spins() -> None:
    spin()


@task(name="semantics-2-identity")
def identity(x: Any) -> Any:
    return x


# ---------------------------------------------------------------------------------------------- time limits


def in_a_task() -> None:
    spins()


def guarded() -> None:
    with contextlib.suppress(Exception):
        spins()
    spin()


def submitted() -> None:
    spins.submit().result()


def not_waited_for() -> None:
    spins.submit()


def in_a_subflow() -> None:
    @flow(name="inner", retries=3)
    def inner() -> None:
        spins()

    inner()


@pytest.mark.parametrize("body", [spin, in_a_task, guarded, submitted, not_waited_for, in_a_subflow])
def test_the_limit_of_a_flow_ends_it_wherever_it_is(body: Callable[[], None]) -> None:
    state = flow(name="limited", timeout_seconds=0.2)(body)(return_state=True)
    assert (state.type, state.name) == (states.StateType.FAILED, "TimedOut")


def test_the_limit_of_an_async_flow_ends_it() -> None:
    @task(name="semantics-3-sleeps", retries=2)
    async def sleeps() -> None:
        await asyncio.sleep(60)

    @flow(name="limited", timeout_seconds=0.2)
    async def limited() -> None:
        with contextlib.suppress(Exception):
            await asyncio.gather(sleeps(), sleeps())

    assert asyncio.run(limited(return_state=True)).name == "TimedOut"


def test_a_task_whose_code_swallows_the_end_of_its_time_has_timed_out() -> None:
    @task(name="semantics-4-stubborn", timeout_seconds=0.1)
    def stubborn() -> str:
        for _ in range(3000):
            with contextlib.suppress(Exception):
                time.sleep(0.01)
        return "ran on"

    @flow(name="outer")
    def outer() -> list[Any]:
        return [stubborn(return_state=True).name, stubborn.submit().wait() or "waited"]

    assert outer() == ["TimedOut", "waited"]


def test_the_limit_of_a_task_is_an_exception_that_the_flow_may_catch() -> None:
    @task(name="semantics-5-slow", timeout_seconds=0.05)
    def slow() -> None:
        spin()

    @flow(name="outer")
    def outer() -> str:
        try:
            slow()
        except TaskTimeout:
            return "caught"
        return "not ended"

    assert outer() == "caught"


def test_the_limit_of_a_task_is_not_that_of_its_flow() -> None:
    ended: list[str] = []

    @task(name="semantics-over-its-limit", timeout_seconds=0.05)
    def over_its_limit() -> None:
        spin()

    @task(name="semantics-goes-on")
    def goes_on() -> None:
        time.sleep(0.2)
        ended.append("goes on")

    @flow(name="outer", timeout_seconds=60)
    def outer() -> None:
        goes_on.submit()
        over_its_limit()

    state = outer(return_state=True)
    assert state.name == "Failed"
    assert isinstance(state.result(raise_on_failure=False), TaskTimeout)
    assert ended == ["goes on"]  # the flow itself had time to wait for what it had submitted


# ---------------------------------------------------------------------------------------------- code that exits


class Odd(BaseException):
    """Of a library of the user's."""


@pytest.mark.parametrize("error", [SystemExit(3), Odd("odd"), KeyboardInterrupt(), asyncio.CancelledError()])
def test_a_submitted_task_that_raises_no_exception_crashes_alone(error: BaseException) -> None:
    @task(name="semantics-6-exits")
    def exits() -> None:
        raise error

    @flow(name="outer")
    def outer() -> tuple[str, int]:
        future = exits.submit()
        future.wait()
        with pytest.raises(CrashedRun, match=type(error).__name__):
            future.result()
        return future.state.name, identity.submit(1).result()

    assert outer() == ("Crashed", 1)


def test_a_coroutine_that_is_cancelled_by_nobody_crashes_alone() -> None:
    @task(name="semantics-7-leaky")
    async def leaky() -> None:
        raise asyncio.CancelledError("a scope of a library")

    @flow(name="outer")
    async def outer() -> str:
        state = await leaky(return_state=True)
        return state.name

    assert asyncio.run(outer()) == "Crashed"


def test_exiting_in_a_flow_ends_it_as_failed() -> None:
    @flow(name="exits")
    def exits() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        exits()


# ---------------------------------------------------------------------------------------------- nested waiting


def test_submitted_tasks_that_wait_for_submitted_tasks_end() -> None:
    @task(name="semantics-8-parent")
    def parent(depth: int) -> int:
        return 1 if depth == 0 else sum(f.result() for f in [parent.submit(depth - 1), parent.submit(depth - 1)])

    @flow(name="nightly")
    def nightly() -> int:
        return sum(f.result() for f in [parent.submit(3) for _ in range(12)])

    assert nightly() == 12 * 8


# ---------------------------------------------------------------------------------------------- retries of parents


def test_a_retried_task_replays_what_its_calls_completed_and_repeats_what_failed() -> None:
    ran: list[str] = []

    @task(name="semantics-13-child")
    def child(name: str) -> str:
        ran.append(name)
        if name == "bad" and ran.count("bad") == 1:
            raise ValueError("once")
        return name

    @task(name="semantics-14-parent", retries=1)
    def parent() -> list[str]:
        return [child("good"), child("good"), child("bad")]

    @flow(name="outer")
    def outer() -> list[str]:
        return parent()

    assert outer() == ["good", "good", "bad"]
    assert ran == ["good", "good", "bad", "bad"]


def test_a_subflow_of_a_retried_task_goes_on() -> None:
    ran: list[str] = []

    @task(name="semantics-15-step")
    def step(name: str) -> str:
        ran.append(name)
        return name

    @flow(name="inner")
    def inner() -> None:
        step("inner")
        if ran.count("inner") and len(ran) < 2:
            ran.append("failed")
            raise ValueError("once")

    @task(name="semantics-16-parent", retries=1)
    def parent() -> str:
        inner()
        return "done"

    @flow(name="outer")
    def outer() -> str:
        return parent()

    assert outer() == "done"
    assert ran == ["inner", "failed"]


def test_the_retries_of_a_subflow_are_renewed_with_its_parents() -> None:
    ran: list[int] = []

    @flow(name="inner", retries=1)
    def inner() -> None:
        ran.append(1)
        if len(ran) < 4:
            raise ValueError("not yet")

    @flow(name="outer", retries=1)
    def outer() -> str:
        inner()
        return "done"

    assert outer() == "done"
    assert len(ran) == 4


def test_a_branch_that_outlives_an_execution_of_the_flow_makes_no_calls() -> None:
    ran: list[int] = []
    ends: list[BaseException] = []

    @task(name="semantics-17-late")
    async def late(execution: int) -> None:
        ran.append(execution)

    @flow(name="outer", retries=1)
    async def outer() -> str:
        execution = len(ends) + len(ran)

        async def branch() -> None:
            await asyncio.sleep(0.05)
            try:
                await late(execution)
            except BaseException as error:
                ends.append(error)
                raise

        left = asyncio.create_task(branch())
        if not waiting:
            waiting.append(left)
            raise ValueError("begin again")
        await asyncio.gather(*waiting, left, return_exceptions=True)
        return "done"

    waiting: list[Any] = []
    assert asyncio.run(outer()) == "done"
    assert ran == [0]
    assert [type(error).__name__ for error in ends] == ["Fenced"]


# ---------------------------------------------------------------------------------------------- without context


def test_a_call_on_a_thread_without_context_says_so_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kapstan.engine import task_run

    monkeypatch.setattr(task_run, "_warned", False)

    @flow(name="outer")
    def outer() -> None:
        for _ in range(2):
            thread = threading.Thread(target=identity, args=(1,), name="mine")
            thread.start()
            thread.join()

    with caplog.at_level(logging.WARNING, "kapstan"):
        outer()
    told = [message for message in caplog.messages if "thread 'mine', which carries no flow run" in message]
    assert len(told) == 1
