"""What a probe may say of an effect in doubt, and what no answer is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from kapstan import backend as backends
from kapstan.cache_policies import INPUTS
from kapstan.errors import ParkedRun
from kapstan.ports import RegisterState
from kapstan.settings import Settings
from kapstan.states import Completed
from kapstan.tasks import Task

ran: list[int] = []


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path) -> Iterator[None]:
    ran.clear()
    backends.use(Settings(home=str(tmp_path)))
    yield
    backends.use(None)


def in_doubt(probe: Callable[[str], Any]) -> Task[..., Any]:
    """A task whose first run was broken off."""

    def charge(order: int) -> str:
        ran.append(order)
        if len(ran) == 1:
            raise KeyboardInterrupt
        return "charged"

    task = Task(charge, name="probed", exactly_once=True, cache_policy=INPUTS, probe=probe, effect_horizon=0.0)
    with pytest.raises(KeyboardInterrupt):
        task(7)
    register = backends.current().register
    (key,) = register.all_keys()
    while (found := register.read(key)) is None or found.record.state is not RegisterState.PARKED:
        continue
    return task


@pytest.mark.parametrize(("said", "result"), [(Completed(), None), (0, 0), ("", ""), (True, True), ([], [])])
def test_what_is_not_false_is_the_result(said: Any, result: Any) -> None:
    task = in_doubt(lambda _: said)
    assert (task(7), task(7), ran) == (result, result, [7])


@pytest.mark.parametrize("said", [False, numpy.bool_(False), numpy.arange(2).sum() > 1])
def test_numpys_false_is_false(said: Any) -> None:
    task = in_doubt(lambda _: said)
    assert (task(7), task(7), ran) == ("charged", "charged", [7, 7])


async def later() -> bool:
    return False


@pytest.mark.parametrize("answer", [later, threading.Lock, lambda: b"x" * 70_000_000])
def test_an_answer_that_cannot_be_used_leaves_it_parked(
    answer: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    task = in_doubt(lambda _: answer())
    with pytest.raises(ParkedRun):
        task(7)
    assert "The probe of probed gives no answer that can be used: nothing is known" in caplog.text
    assert ran == [7]
