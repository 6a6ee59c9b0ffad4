"""Ways to define and call tasks and flows: ``map``, generators, decorators below, methods, ``wait_for``, names."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from kapstan import backend as backends
from kapstan import flow, runtime, task, unmapped
from kapstan.errors import MappingLengthMismatch, MappingMissingIterable, UnfinishedRun
from kapstan.results import read_flow_run
from kapstan.runs.records import Records


def last_run() -> dict[str, Any]:
    return Records(backends.current()).recent(1)[0]


@task
def taken(*rest: Any, x: Any = 0, **more: Any) -> tuple[Any, ...]:
    return rest, x, more


@task
def fail() -> None:
    raise ValueError("no")


# ---------------------------------------------------------------------------------------------- map


def mapped(*args: Any, **kwargs: Any) -> list[Any]:
    @flow(name="mapped")
    def mapping() -> list[Any]:
        return taken.map(*args, **kwargs).result()

    return mapping()


def test_map_takes_apart_what_goes_to_variadic_parameters() -> None:
    assert mapped(a=[1, 2], b=[3, 4]) == [((), 0, {"a": 1, "b": 3}), ((), 0, {"a": 2, "b": 4})]
    assert mapped([1, 2], [3, 4]) == [((1, 3), 0, {}), ((2, 4), 0, {})]
    assert mapped(x=[1, 2], a=unmapped([3, 4]), b="text") == [
        ((), 1, {"a": [3, 4], "b": "text"}),
        ((), 2, {"a": [3, 4], "b": "text"}),
    ]
    assert mapped(unmapped("ab"), 7, x=range(2)) == [(("ab", 7), 0, {}), (("ab", 7), 1, {})]
    assert mapped(a=(letter for letter in "ab")) == [((), 0, {"a": "a"}), ((), 0, {"a": "b"})]
    assert mapped(a={"k": 1}) == [((), 0, {"a": "k"})]
    assert mapped(a=[]) == []


def test_map_names_the_iterables_that_differ() -> None:
    with pytest.raises(MappingLengthMismatch, match=r"argument 1 has 1, argument 2 has 2, x has 3, a has 4"):
        mapped([1], [1, 2], x=[1, 2, 3], a=[1, 2, 3, 4], b=unmapped([1]), c="text")
    with pytest.raises(MappingMissingIterable):
        mapped("text", b"bytes", x=5, a=unmapped([1]))


def test_map_over_futures() -> None:
    @task(name="one and two")
    def numbers() -> list[int]:
        return [1, 2]

    @flow(name="over futures")
    def mapping() -> list[Any]:
        lists = taken.map(a=numbers.submit(), b=unmapped(numbers.submit()))
        singles = taken.map(a=[numbers.submit(), numbers.submit()])
        return [*lists.result(), *singles.result(), *taken.map(taken.map(a=[5])).result()]

    assert mapping() == [
        ((), 0, {"a": 1, "b": [1, 2]}),
        ((), 0, {"a": 2, "b": [1, 2]}),
        ((), 0, {"a": [1, 2]}),
        ((), 0, {"a": [1, 2]}),
        ((((), 0, {"a": 5}),), 0, {}),
    ]


class Basket:
    """Iterable, so that ``map`` on a method could take the object itself for its elements."""

    def __iter__(self) -> Iterator[str]:
        return iter("abc")

    @task
    def price(self, amount: int, *, rate: int = 1) -> int:
        return amount * rate

    @flow
    def sell(self, amount: int) -> str:
        return f"{len(list(self))} for {self.price(amount)}"

    @flow
    async def asell(self, amount: int) -> int:
        return amount

    @flow
    @classmethod
    def kind(cls, prefix: str) -> str:
        return prefix + cls.__name__

    @classmethod
    @flow
    def kind_of(cls, prefix: str) -> str:
        return prefix + cls.__name__

    @flow
    @staticmethod
    def plain(amount: int) -> int:
        return amount


def test_map_on_a_method() -> None:
    @flow(name="method")
    def mapping() -> list[Any]:
        basket = Basket()
        return [*basket.price.map([1, 2]).result(), *basket.price.map([1, 2], rate=[3, 4]).result()]

    assert mapping() == [1, 2, 3, 8]


def test_flows_are_methods() -> None:
    basket = Basket()
    assert basket.sell(2) == Basket.sell(basket, 2) == "3 for 2"
    assert asyncio.run(basket.asell(2)) == 2
    assert Basket.kind("a ") == basket.kind("a ") == Basket.kind_of("a ") == "a Basket"
    assert basket.plain(2) == Basket.plain(2) == 2
    assert basket.sell.with_options(name="other")(1) == "3 for 1"
    assert last_run()["flow"] == "other"


# ---------------------------------------------------------------------------------------------- generators


def test_a_generator_task_gives_the_list_of_its_items_and_its_body_is_the_run() -> None:
    bodies: list[tuple[str, int]] = []

    @task(name="numbers", retries=1)
    def numbers(n: int, *, broken: bool = False) -> Iterator[int]:
        bodies.append((runtime.task_run.name or "", runtime.task_run.run_count or 0))
        yield from range(n)
        if broken:
            raise ValueError("half way")

    @task(name="anumbers")
    async def anumbers(n: int) -> AsyncIterator[int]:
        for item in range(n):
            await asyncio.sleep(0)
            yield item

    @flow(name="generates")
    def generates() -> list[Any]:
        with pytest.raises(ValueError, match="half way"):
            numbers(1, broken=True)
        state = numbers(1, return_state=True)
        return [numbers(2), numbers.submit(3).result(), anumbers.submit(2).result(), state.result()]

    @flow(name="agenerates")
    async def agenerates() -> list[int]:
        return [item async for item in anumbers(3)]

    assert numbers(2) == [0, 1]
    assert generates() == [[0, 1], [0, 1, 2], [0, 1], [0]]
    assert asyncio.run(agenerates()) == [0, 1, 2]
    assert [count for _, count in bodies] == [1, 1, 2, 1, 1, 1]
    assert all(name.startswith("numbers-") for name, _ in bodies)
    assert (numbers.isgenerator, numbers.isasync, anumbers.isgenerator, anumbers.isasync) == (True, False, True, True)


def test_a_generator_flow_gives_the_list_of_its_items() -> None:
    @flow(name="yields")
    def yields() -> Iterator[Any]:
        yield taken(1)
        yield 2

    @flow(name="ayields")
    async def ayields() -> AsyncIterator[int]:
        yield 1

    async def collected() -> list[int]:
        return [item async for item in ayields()]

    assert yields() == [((1,), 0, {}), 2]
    assert read_flow_run(last_run()["run_id"]).result() == [((1,), 0, {}), 2]
    assert asyncio.run(collected()) == [1]


# ---------------------------------------------------------------------------------------------- decorators below


def logged(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


def with_session(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn("session", *args, **kwargs)

    return wrapper


def test_an_async_function_below_a_plain_decorator() -> None:
    @task(name="load")
    @logged
    async def load(table: str) -> str:
        await asyncio.sleep(0)
        return f"{table} loaded"

    @flow(name="etl")
    @logged
    async def etl(table: str) -> list[str]:
        return [await load(table), load.submit("b").result()]

    assert asyncio.run(etl("a")) == ["a loaded", "b loaded"]
    assert asyncio.run(load("c")) == "c loaded"


def test_a_function_that_returns_a_coroutine_gives_its_result() -> None:
    async def inner() -> str:
        await asyncio.sleep(0)
        return runtime.task_run.name or ""

    @task(name="returns", task_run_name="returning")
    def returns() -> Any:
        return inner()

    @flow(name="sync")
    def sync() -> list[str]:
        return [returns(), returns.submit().result()]

    @flow(name="async")
    async def in_async() -> str:
        return returns()

    assert sync() == ["returning", "returning"]
    assert asyncio.run(in_async()) == "returning"


def test_a_decorator_that_adds_an_argument() -> None:
    @task(name="load with session")
    @with_session
    def load(session: str, table: str, limit: int = 5) -> str:
        return f"{session}:{table}:{limit}"

    @flow(name="etl with session")
    @with_session
    def etl(session: str, table: str) -> list[Any]:
        return [f"{session}:{table}", load(table), load.map(["a", "b"], limit=1).result(), load.submit(table).result()]

    assert etl("users") == [
        "session:users",
        "session:users:5",
        ["session:a:1", "session:b:1"],
        "session:users:5",
    ]


def test_the_types_of_a_flow_below_a_plain_decorator_are_those_of_its_function() -> None:
    @flow(name="typed")
    @logged
    def typed(n: int) -> int:
        return n + 1

    assert typed("5") == 6


# ---------------------------------------------------------------------------------------------- wait_for, names


def test_a_subflow_waits_for_what_it_is_to_wait_for() -> None:
    order: list[str] = []

    @task(name="comes first")
    def first() -> None:
        order.append("first")

    @flow(name="inner")
    def inner(x: int) -> int:
        order.append("inner")
        return x

    @flow(name="ainner")
    async def ainner(x: int) -> int:
        order.append("ainner")
        return x

    @flow(name="outer")
    def outer() -> int:
        state = inner(1, wait_for=[fail.submit()], return_state=True)
        assert (state.name, state.type.name) == ("NotReady", "PENDING")
        with pytest.raises(UnfinishedRun):
            inner(1, wait_for=[fail(return_state=True)])
        return inner(2, wait_for=[first.submit()])

    @flow(name="aouter")
    async def aouter() -> int:
        state = await ainner(1, wait_for=[fail.submit()], return_state=True)
        assert state.name == "NotReady"
        return await ainner(2, wait_for=[first.submit()])

    assert outer() == 2
    assert asyncio.run(aouter()) == 2
    assert order == ["first", "inner", "first", "ainner"]


@flow
def my_first_flow() -> None: ...


def test_a_flow_is_called_by_its_functions_name_with_dashes() -> None:
    assert my_first_flow.name == "my-first-flow"
    assert my_first_flow.with_options(retries=1).name == "my-first-flow"
    assert my_first_flow.with_options(name="my_own").name == "my_own"
    assert my_first_flow.__name__ == "my_first_flow"
    assert my_first_flow.spec.identity == f"{__name__}:my_first_flow"
