"""Keys of calls: the same in the next attempt, whatever the timing of branches."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest

from kapstan.engine import branch
from kapstan.engine.branch import Branch

RUN, OTHER = "0" * 22, "1" * 22


def test_keys_are_the_same_in_the_next_attempt() -> None:
    calls: list[tuple[str, dict[str, Any]]] = [("m:a", {"x": 1}), ("m:a", {"x": 2}), ("m:b", {"x": 1})]
    first, second = Branch(RUN), Branch(RUN)
    keys = [first.place(*call).key for call in calls]
    assert len(set(keys)) == len(calls)
    assert [second.place(*call).key for call in reversed(calls)] == keys[::-1]


def test_equal_calls_are_told_apart_by_their_number() -> None:
    keys = [place.key for line in [Branch(RUN)] for place in [line.place("m:a", {"x": 1}) for _ in range(3)]]
    again = Branch(RUN)
    assert len(set(keys)) == 3
    assert [again.place("m:a", {"x": 1}).key for _ in range(3)] == keys


def test_other_runs_and_other_branches_have_other_keys() -> None:
    lines = [Branch(RUN), Branch(OTHER), Branch(RUN, "a"), Branch(RUN).child("t"), Branch(RUN).child("u")]
    assert len({line.place("m:a", {}).key for line in lines}) == len(lines)


def test_a_position_does_not_depend_on_the_inputs() -> None:
    first, second = Branch(RUN), Branch(RUN)
    assert first.place("m:a", {"x": 1}).position == second.place("m:a", {"x": 2}).position
    assert first.place("m:a", {"x": 1}).position == second.place("m:a", {"x": 1}).position
    assert second.place("m:b", {}).position != second.place("m:a", {}).position


def test_threads_of_one_branch_share_out_the_numbers() -> None:
    line, alone = Branch(RUN), Branch(RUN)
    with ThreadPoolExecutor(8) as threads:
        keys = set(threads.map(lambda _: line.place("m:a", {"x": 1}).key, range(200)))
    assert keys == {alone.place("m:a", {"x": 1}).key for _ in range(200)}


# ---------------------------------------------------------------------------------------------- asyncio tasks

Order = Callable[[int], Awaitable[None]]


def calls_of(start: Callable[[Callable[[int], Awaitable[str]]], Awaitable[list[str]]], late: int) -> list[str]:
    """The keys of an equal call in two asyncio tasks, of which number ``late`` makes it after the other."""

    async def main() -> list[str]:
        branch.number_tasks(asyncio.get_running_loop())
        other_has_called = asyncio.Event()

        async def body(number: int) -> str:
            if number == late:
                await other_has_called.wait()
            line = branch.here()
            assert line is not None
            key = line.place("m:a", {}).key
            other_has_called.set()
            return key

        branch.current.set(Branch(RUN))
        return await start(body)

    return copy_context().run(asyncio.run, main())


async def gathered(body: Callable[[int], Any]) -> list[str]:
    return list(await asyncio.gather(body(0), body(1)))


async def created(body: Callable[[int], Any]) -> list[str]:
    tasks = [asyncio.create_task(body(0)), asyncio.create_task(body(1))]
    return [await task for task in tasks]


async def grouped(body: Callable[[int], Any]) -> list[str]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(body(0)), group.create_task(body(1))]
    return [task.result() for task in tasks]


async def in_threads(body: Callable[[int], Any]) -> list[str]:
    def call() -> str:
        line = branch.here()
        assert line is not None
        return line.place("m:a", {}).key

    async def member(number: int) -> str:
        await body(number)
        return await asyncio.to_thread(call)

    return list(await asyncio.gather(member(0), member(1)))


@pytest.mark.parametrize("start", [gathered, created, grouped, in_threads])
def test_asyncio_tasks_keep_their_keys_whichever_comes_first(start: Any) -> None:
    keys = calls_of(start, late=0)
    assert len(set(keys)) == 2
    assert calls_of(start, late=1) == keys


def test_a_task_factory_of_the_users_goes_on_making_the_tasks() -> None:
    made: list[str] = []

    def factory(loop: Any, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        made.append(coro.__name__)
        return asyncio.Task(coro, loop=loop, **kwargs)

    async def body() -> Branch | None:
        return branch.here()

    async def main() -> tuple[Branch | None, Branch | None]:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        branch.number_tasks(loop)
        outside = await asyncio.create_task(body())
        branch.current.set(Branch(RUN))
        return outside, await asyncio.create_task(body())

    outside, inside = asyncio.run(main())
    assert made.count("body") == 2
    assert outside is None
    assert inside is not None
    assert inside.path


# ---------------------------------------------------------------------------------------------- threads, processes


def keys_of_threads(late: int) -> list[str]:
    """The keys of an equal call in two threads that carry the context; number ``late`` makes it after the other."""
    other_has_called = threading.Event()

    def body(number: int) -> str:
        if number == late:
            assert other_has_called.wait(30)
        line = branch.here()
        assert line is not None
        key = line.place("m:a", {}).key
        other_has_called.set()
        return key

    def flow() -> list[str]:
        branch.current.set(Branch(RUN))
        with ThreadPoolExecutor(2) as threads:
            return [future.result() for future in [threads.submit(copy_context().run, body, n) for n in range(2)]]

    return copy_context().run(flow)


def test_threads_keep_their_keys_whichever_comes_first() -> None:
    keys = keys_of_threads(late=0)
    assert len(set(keys)) == 2
    assert keys_of_threads(late=1) == keys


def test_a_forked_process_belongs_to_no_branch() -> None:
    def flow() -> int:
        branch.current.set(Branch(RUN))
        child = os.fork()
        if child == 0:
            os._exit(0 if branch.here() is None else 1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert copy_context().run(flow) == 0
