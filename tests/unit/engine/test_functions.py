"""What a decorated function is when it is called, and what its result stands for."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from kapstan.engine.functions import driven, runs_async, settled
from kapstan.engine.operations import Call, Limited
from kapstan.errors import TaskTimeout


def logged(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


def blocking(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(fn(*args, **kwargs))

    return wrapper


def plain(x: int = 1) -> int:
    return x


async def coroutine(x: int = 1) -> int:
    await asyncio.sleep(0)
    return x


def items(x: int = 3) -> Iterator[int]:
    yield from range(x)


async def aitems(x: int = 3) -> AsyncIterator[int]:
    for item in range(x):
        await asyncio.sleep(0)
        yield item


class Callables:
    def __call__(self) -> None: ...

    async def method(self) -> None: ...


class AsyncCallable:
    async def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (plain, False),
        (coroutine, True),
        (items, False),
        (aitems, True),
        (logged(plain), False),
        (logged(coroutine), True),
        (logged(logged(aitems)), True),
        (blocking(coroutine), False),
        (logged(blocking(coroutine)), False),
        (functools.partial(plain, 1), False),
        (functools.partial(coroutine, 1), True),
        (Callables(), False),
        (Callables().method, True),
        (AsyncCallable(), True),
        (AsyncCallable, False),
        (len, False),
    ],
)
def test_whether_a_call_gives_something_to_await(fn: Callable[..., Any], expected: bool) -> None:
    assert runs_async(fn) is expected


@pytest.mark.parametrize(
    ("fn", "expected"),
    [(plain, 1), (coroutine, 1), (items, [0, 1, 2]), (aitems, [0, 1, 2]), (logged(items), [0, 1, 2])],
)
def test_a_result_becomes_a_value_with_and_without_a_running_loop(fn: Callable[..., Any], expected: Any) -> None:
    assert settled(fn()) == expected
    assert Call(fn, (), {}).block() == Limited(5.0, Call(fn, (), {})).block() == expected

    async def inside() -> Any:
        return settled(fn())

    assert asyncio.run(inside()) == expected
    assert asyncio.run(Call(fn, (), {}).on_loop()) == asyncio.run(Limited(5.0, Call(fn, (), {})).on_loop()) == expected


def test_the_body_of_a_generator_is_under_the_time_limit() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 1

    with pytest.raises(TaskTimeout):
        Limited(0.05, Call(endless, (), {})).block()


def test_an_error_in_a_driven_coroutine_is_the_callers() -> None:
    async def fail() -> None:
        raise ValueError("oh")

    async def inside() -> None:
        driven(fail())

    with pytest.raises(ValueError, match="oh"):
        driven(fail())
    with pytest.raises(ValueError, match="oh"):
        asyncio.run(inside())
