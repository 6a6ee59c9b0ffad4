"""Each key at most once in line and at most once in work."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from kapstan.reconcile.work_queue import WorkQueue


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 10))


def make() -> tuple[WorkQueue[str], Clock]:
    clock = Clock()
    return WorkQueue[str](clock, jitter=lambda: 1.0), clock


def test_a_key_that_is_added_twice_comes_once() -> None:
    async def work() -> None:
        queue, _ = make()
        for key in ("a", "b", "a"):
            queue.add(key)
        assert [await queue.take(), await queue.take()] == ["a", "b"]
        assert len(queue) == 2
        queue.done("a")
        queue.done("b")
        assert len(queue) == 0

    run(work())


def test_a_key_that_is_added_in_work_comes_again_and_to_one_worker_only() -> None:
    async def work() -> None:
        queue, _ = make()
        queue.add("a")
        assert await queue.take() == "a"
        queue.add("a")
        second = asyncio.create_task(queue.take())
        queue.add("b")
        assert await second == "b"
        queue.done("a")
        assert await queue.take() == "a"

    run(work())


def test_a_key_comes_at_its_moment_and_of_several_at_the_earliest() -> None:
    async def work() -> None:
        queue, clock = make()
        queue.add_at("a", 1060.0)
        queue.add_at("a", 1030.0)
        queue.add_at("a", 1090.0)
        assert queue.next_due == 1030.0
        waiting = asyncio.create_task(queue.take())
        queue.add("b")
        assert await waiting == "b"
        clock.now = 1030.0
        assert await queue.take() == "a"
        assert queue.next_due is None

    run(work())


def test_failures_are_waited_for_longer_and_longer_up_to_a_minute() -> None:
    async def work() -> None:
        queue, clock = make()
        queue.add("a")
        delays: list[float] = []
        for _ in range(11):
            assert await queue.take() == "a"
            delays.append(queue.failed("a"))
            clock.now += 100
        assert delays == pytest.approx([0.2 * 2**n for n in range(9)] + [60.0, 60.0])

    run(work())


def test_success_forgets_the_failures() -> None:
    async def work() -> None:
        queue, clock = make()
        queue.add("a")
        await queue.take()
        queue.failed("a")
        clock.now += 1
        await queue.take()
        queue.done("a")
        queue.add("a")
        await queue.take()
        assert queue.failed("a") == pytest.approx(0.2)

    run(work())


def test_whoever_waits_is_let_go_when_the_queue_closes() -> None:
    async def work() -> None:
        queue, _ = make()
        waiting = [asyncio.create_task(queue.take()) for _ in range(3)]
        queue.close()
        assert await asyncio.gather(*waiting) == [None, None, None]

    run(work())
