"""The surface of ``@task``: options, identity, direct calls, mapping, methods."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kapstan import exponential_backoff, task, unmapped
from kapstan.engine.mapping import expanded
from kapstan.errors import (
    ConfigurationError,
    DuplicateTask,
    MappingLengthMismatch,
    MappingMissingIterable,
    ParameterError,
)
from kapstan.tasks import Task


@task
def add(a: int, b: int = 1) -> int:
    """Adds."""
    return a + b


@task(name="flaky", retries=2, retry_delay_seconds=0)
def flaky(fails: list[int]) -> str:
    if fails:
        fails.pop()
        raise ValueError("not yet")
    return "done"


def test_a_direct_call_returns_or_raises() -> None:
    assert add(1, b=2) == 3
    assert flaky([1, 1]) == "done"
    with pytest.raises(ValueError, match="not yet"):
        flaky([1, 1, 1])


def test_return_state() -> None:
    state = flaky([1, 1, 1], return_state=True)
    assert state.is_failed()
    assert isinstance(state.result(raise_on_failure=False), ValueError)
    assert add(1, return_state=True).result() == 2


def test_an_async_task_is_awaited() -> None:
    @task(name="async add")
    async def aadd(a: int) -> int:
        return a + 1

    assert asyncio.run(aadd(1)) == 2


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ParameterError, match=r"add\(a: 'int', b: 'int' = 1\).*'c'"):
        add(1, c=2)  # pyright: ignore


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retrys": 3}, "@task has no option 'retrys'; did you mean retries?"),
        ({"timeout": 3}, "@task has no option 'timeout'; did you mean timeout_seconds?"),
    ],
)
def test_an_unknown_option_names_the_nearest(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError) as raised:
        task(**options)
    assert str(raised.value) == message


def test_delays() -> None:
    spec = Task(add.fn, retries=3, retry_delay_seconds=exponential_backoff(10)).spec
    assert [spec.delay_before(retry) for retry in (1, 2, 3, 4)] == [10, 20, 40, 40]


def test_identity_and_duplicates() -> None:
    assert add.spec.identity.endswith("test_tasks:add")
    assert flaky.spec.identity == "flaky"
    with pytest.raises(DuplicateTask, match="are both the task 'flaky'"):

        @task(name="flaky")
        def other() -> None: ...


def test_a_local_function_is_a_task_that_only_its_process_can_find() -> None:
    @task
    def double(x: int) -> int:
        return 2 * x

    assert double(2) == 4
    assert task(lambda: 5)() == 5
    for refused in (double, task(lambda x: x)):
        with pytest.raises(ConfigurationError, match=r"cannot run in the background: .* (local function|lambda)"):
            refused.delay(1)
        with pytest.raises(ConfigurationError, match="cannot be served"):
            refused.serve()


def test_decorating_again_is_no_duplicate() -> None:
    assert isinstance(task(add.fn), Task)


class Shop:
    def __init__(self, rate: int) -> None:
        self.rate = rate

    @task
    def price(self, amount: int) -> int:
        return self.rate * amount

    @task
    @classmethod
    def name(cls) -> str:
        return cls.__name__

    @task
    @staticmethod
    def tax(amount: int) -> int:
        return amount // 10


def test_methods() -> None:
    shop = Shop(3)
    assert shop.price(2) == 6
    assert Shop.price(shop, 2) == 6
    assert Shop.name() == shop.name() == "Shop"
    assert shop.tax(20) == Shop.tax(20) == 2


def calls(*args: Any, **kwargs: Any) -> list[dict[str, Any]]:
    return [add.spec.bind(*call) for call in expanded(add.spec, args, kwargs)]


def test_map_takes_iterables_apart() -> None:
    assert calls([1, 2], [3, 4]) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    assert calls(range(2), b=5) == [{"a": 0, "b": 5}, {"a": 1, "b": 5}]
    assert calls([1, 2]) == [{"a": 1, "b": 1}, {"a": 2, "b": 1}]
    assert calls(["x", "y"], unmapped([1])) == [{"a": "x", "b": [1]}, {"a": "y", "b": [1]}]
    assert calls([1], "text") == [{"a": 1, "b": "text"}]


def test_map_needs_iterables_of_one_length() -> None:
    with pytest.raises(MappingMissingIterable, match="no argument is iterable"):
        calls(1, b=2)
    with pytest.raises(MappingLengthMismatch, match="a has 1, b has 2"):
        calls([1], [1, 2])


def test_a_script_has_the_identity_that_others_import(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from kapstan import task\n@task\ndef charge(): ...\n"
        "if __name__ == '__main__':\n    import web\n    print(charge.spec.identity, web.identity)\n"
    )
    (tmp_path / "web.py").write_text("import shop\nidentity = shop.charge.spec.identity\n")
    root = str(Path("operator").resolve())
    answer = subprocess.run(
        [sys.executable, "shop.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": root, "KAPSTAN_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.split() == ["shop:charge", "shop:charge"]
