from __future__ import annotations

import asyncio
import threading

import pytest

from kapstan.engine import calls
from kapstan.errors import TaskTimeout


def spin() -> None:
    while True:
        pass


def test_a_blocking_call_on_the_main_thread_is_ended() -> None:
    with pytest.raises(TaskTimeout, match=r"timeout_seconds=0\.05"):
        calls.call(threading.Event().wait, (), {}, 0.05)


def test_python_code_on_another_thread_is_ended() -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            calls.call(spin, (), {}, 0.05)
        except TaskTimeout as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert "timeout_seconds=0.05" in str(raised[0])


def test_a_coroutine_is_ended_at_an_await() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TaskTimeout):
        asyncio.run(calls.acall(wait, (), {}, 0.05))


def test_a_timeout_of_the_coroutines_own_stays_its_own() -> None:
    async def fail() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        asyncio.run(calls.acall(fail, (), {}, 5.0))


def test_an_outer_limit_holds_inside_an_inner_one() -> None:
    def inner() -> None:
        calls.call(threading.Event().wait, (), {}, 60.0)

    with pytest.raises(TaskTimeout, match=r"timeout_seconds=0\.05"):
        calls.call(inner, (), {}, 0.05)


def test_the_outer_limit_goes_on_after_an_inner_one() -> None:
    def inner() -> None:
        calls.call(int, (), {}, 0.01)
        threading.Event().wait()

    with pytest.raises(TaskTimeout, match=r"timeout_seconds=0\.1"):
        calls.call(inner, (), {}, 0.1)


def test_one_loop_serves_all_async_tasks_of_a_thread() -> None:
    loops = calls.LoopThread()

    async def which() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    try:
        assert loops.run(which()) is loops.run(which())
    finally:
        loops.close()
