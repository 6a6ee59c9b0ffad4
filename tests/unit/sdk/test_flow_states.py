"""States as values: what a flow returns, and what it passes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kapstan import flow, states, task
from kapstan.errors import RunFailed
from kapstan.states import State


@task(name="states-identity")
def identity(x: Any) -> Any:
    return x


def test_futures_that_a_flow_returns_are_states() -> None:
    @flow(name="one")
    def one() -> Any:
        return identity.submit(1)

    @flow(name="in a dict")
    def in_a_dict() -> Any:
        return {"a": [identity.submit(1)]}

    state = one()
    assert isinstance(state, State)
    assert state.result() == 1
    assert in_a_dict()["a"][0].result() == 1


def test_states_of_runs_decide_together() -> None:
    @task(name="semantics-9-cancelled")
    def cancelled() -> State:
        return states.Cancelled(message="by itself")

    @task(name="semantics-10-failed")
    def failed() -> State:
        return states.Failed(message="no")

    @flow(name="group")
    def group(*subjects: Any) -> Any:
        return [subject(return_state=True) for subject in subjects]

    good = group(cancelled, failed, return_state=True)
    assert (good.name, good.message) == ("Cancelled", "1/2 states cancelled.")
    bad = group(failed, return_state=True)
    assert bad.name == "Failed"
    with pytest.raises(RunFailed, match="no"):
        bad.result()


def test_a_state_among_the_arguments_is_its_result() -> None:
    @flow(name="chain")
    def chain() -> list[Any]:
        done = identity(5, return_state=True)
        return [identity(done), identity([{"a": done}]), identity.submit(done).result()]

    assert chain() == [5, [{"a": 5}], 5]


def test_a_failed_state_among_the_arguments_is_not_ready() -> None:
    @flow(name="chain")
    def chain() -> str:
        return identity(states.Failed(message="no"), return_state=True).name

    assert chain() == "NotReady"


def test_a_returned_failed_state_is_retried() -> None:
    ran: list[int] = []

    @task(name="semantics-11-third time", retries=2)
    def third_time() -> Any:
        ran.append(1)
        return states.Failed(message="not yet") if len(ran) < 3 else "done"

    @flow(name="outer")
    def outer() -> Any:
        return third_time()

    assert outer() == "done"


def test_a_state_made_by_hand_keeps_its_data() -> None:
    @flow(name="by hand")
    def by_hand() -> State:
        return states.Completed(name="Skipped", data={"a": 1})

    @flow(name="without")
    def without() -> State:
        return states.Completed(message="nothing to do")

    assert by_hand() == {"a": 1}
    assert without() is None


def test_a_coroutine_that_a_plain_function_returns_is_awaited() -> None:
    async def work(x: int) -> int:
        await asyncio.sleep(0)
        return x

    @task(name="semantics-12-wrapped")
    def wrapped(x: int) -> Any:
        return work(x)

    @flow(name="sync")
    def sync() -> list[Any]:
        return [wrapped(1), wrapped.submit(2).result()]

    @flow(name="inside a loop")
    async def inside() -> Any:
        return wrapped(3)

    assert sync() == [1, 2]
    assert asyncio.run(inside()) == 3
