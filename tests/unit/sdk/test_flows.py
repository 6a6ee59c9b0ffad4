"""Flows in this process, on the local store: states, retries, subflows, submitted tasks, names, the console."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pydantic
import pytest

from kapstan import backend as backends
from kapstan import flow, get_run_logger, runtime, states, task
from kapstan.errors import MissingContextError, ParameterError, ParameterTypeError, TaskTimeout, UnfinishedRun
from kapstan.ids import new_id
from kapstan.results import read_flow_run
from kapstan.runs.records import Records


@task
def add(a: int, b: int = 1) -> int:
    return a + b


@task
def fail(message: str = "no") -> None:
    raise ValueError(message)


@task
async def aadd(a: int, b: int = 1) -> int:
    await asyncio.sleep(0)
    return a + b


class Order(pydantic.BaseModel):
    number: int


def last_run() -> dict[str, Any]:
    return Records(backends.current()).recent(1)[0]


def test_a_flow_returns_what_its_function_returns() -> None:
    @flow(name="sum")
    def total(n: int) -> int:
        return sum(add(i) for i in range(n))

    assert total(3) == 6
    run = last_run()
    assert (run["flow"], run["state"], run["outcome"], run["attempt"]) == ("sum", "COMPLETED", "Completed", 1)
    assert read_flow_run(run["run_id"]).result() == 6


def test_a_flow_that_raises_is_failed() -> None:
    @flow(name="failing")
    def failing() -> None:
        fail("oh")

    with pytest.raises(ValueError, match="oh"):
        failing()
    run = last_run()
    assert run["state"] == "FAILED"
    assert run["message"] == "Flow run encountered an exception: ValueError: oh"
    with pytest.raises(ValueError, match="oh"):
        read_flow_run(run["run_id"]).result()


def test_a_flow_run_that_nobody_knows_does_not_run() -> None:
    told: list[str] = []

    @flow(name="tells")
    def tells() -> None:
        told.append(read_flow_run(str(runtime.flow_run.id)).name)

    tells()
    assert (told, read_flow_run(new_id()).name) == (["Running"], "Pending")


def test_submitted_tasks_and_futures_as_arguments() -> None:
    @flow(name="graph")
    def graph() -> int:
        left, right = add.submit(1), aadd.submit(2)
        both = add.submit(left, right)
        return both.result() + sum(add.map([1, 2], [left, right]).result())

    assert graph() == 5 + (3 + 5)


def test_a_failed_upstream_leaves_the_downstream_not_ready() -> None:
    seen: list[states.State] = []

    @flow(name="upstream")
    def upstream() -> None:
        after = add.submit(fail.submit())
        waits = add.submit(1, wait_for=[after])
        waits.wait()
        seen.extend([after.state, waits.state])
        with pytest.raises(UnfinishedRun):
            after.result()

    upstream()
    assert [state.name for state in seen] == ["NotReady", "NotReady"]


def test_returned_futures_decide_together() -> None:
    @flow(name="together")
    def together(good: bool) -> list[Any]:
        return [add.submit(1), add.submit(2) if good else fail.submit("bad")]

    assert [state.result() for state in together(True)] == [2, 3]
    state = together(False, return_state=True)
    assert (state.name, state.message) == ("Failed", "1/2 states are not Completed: Failed")
    with pytest.raises(ValueError, match="bad"):
        state.result()


def test_a_returned_state_is_the_flows() -> None:
    @flow(name="skips")
    def skips() -> states.State:
        return states.Completed(name="Skipped", message="nothing to do", data=None)

    assert str(skips(return_state=True)) == "Skipped('nothing to do')"


def test_async_flows_with_gather_and_subflows() -> None:
    @flow(name="inner")
    async def inner(x: int) -> int:
        return await aadd(x)

    @flow(name="outer")
    async def outer() -> list[int]:
        return await asyncio.gather(inner(1), inner(1), aadd(5), aadd(5, 6))

    assert asyncio.run(outer()) == [2, 2, 6, 11]


def test_flow_retries_run_what_failed_again(caplog: pytest.LogCaptureFixture) -> None:
    ran: list[str] = []

    @task(name="first")
    def first() -> str:
        ran.append("first")
        return "kept"

    @task(name="second")
    def second() -> int:
        ran.append("second")
        if len(ran) < 4:
            raise ValueError("again")
        return runtime.flow_run.run_count

    @flow(name="retrying", retries=3, retry_delay_seconds=0.01)
    def retrying() -> tuple[str, int]:
        return first(), second()

    with caplog.at_level(logging.INFO, "kapstan"):
        assert retrying() == ("kept", 3)
    assert ran == ["first", "second", "second", "second"]
    assert "Retrying in 0.01 seconds..." in caplog.messages


def test_parameters_take_the_types_of_the_annotations() -> None:
    seen: list[Any] = []

    @flow(name="typed")
    def typed(n: int, order: Order, names: list[str], *, rate: float = 1) -> None:
        seen.append((n, order, names, rate))

    typed("5", {"number": "7"}, ("a",), rate=2)  # pyright: ignore
    assert seen == [(5, Order(number=7), ["a"], 2.0)]
    with pytest.raises(ParameterTypeError) as raised:
        typed("five", {"number": 1}, [])  # pyright: ignore
    assert str(raised.value) == (
        "flow typed: parameter n='five' is not int: "
        "Input should be a valid integer, unable to parse string as an integer"
    )
    assert last_run()["state"] == "FAILED"
    with pytest.raises(ParameterError, match="missing a required argument: 'order'"):
        typed(1)  # pyright: ignore


def test_validation_can_be_left_out() -> None:
    @flow(name="raw", validate_parameters=False)
    def raw(n: int) -> Any:
        return n

    assert raw("5") == "5"  # pyright: ignore


def test_a_flow_times_out() -> None:
    @flow(name="slow", timeout_seconds=0.05)
    def slow() -> None:
        threading.Event().wait()

    state = slow(return_state=True)
    assert (state.type, state.name) == (states.StateType.FAILED, "TimedOut")
    with pytest.raises(TaskTimeout):
        state.result()


def test_names_ids_and_the_console(caplog: pytest.LogCaptureFixture) -> None:
    seen: dict[str, Any] = {}

    @task(name="named", task_run_name="named-{x}", log_prints=True)
    def named(x: int) -> None:
        print("hello", x)
        get_run_logger().info("logged")
        seen["task"] = (runtime.task_run.name, runtime.task_run.parameters, runtime.task_run.flow_run_id)

    @flow(name="transform")
    def transform() -> None: ...

    @flow(name="My Pipeline")
    def pipeline(x: int) -> None:
        seen["flow"] = (runtime.flow_run.name, runtime.flow_run.id, runtime.flow_run.parameters)
        named(x)
        transform()

    with caplog.at_level(logging.INFO, "kapstan"):
        pipeline(3)
    name, run_id, parameters = seen["flow"]
    assert parameters == {"x": 3}
    assert seen["task"] == ("named-3", {"x": 3}, run_id)
    assert caplog.messages == [
        f"Created flow run '{name}' for flow 'My Pipeline'",
        "hello 3",
        "logged",
        "Finished in state Completed()",
        "Created subflow run for flow 'transform'",
        "Finished in state Completed()",
        "Finished in state Completed()",
    ]
    assert [getattr(record, "run", None) for record in caplog.records[1:3]] == ["Task run 'named-3'"] * 2
    with pytest.raises(MissingContextError):
        get_run_logger()


def test_a_result_that_cannot_be_stored_leaves_the_run_completed(caplog: pytest.LogCaptureFixture) -> None:
    @task(name="locks")
    def lock() -> Any:
        return threading.Lock()

    @flow(name="locking")
    def locking() -> Any:
        lock()
        return lock()

    assert locking() is not None
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2  # one for the task, one for the flow
    assert "the result of locks" in warnings[0]
    assert "it runs again when this flow run is resumed" in warnings[0]


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(TypeError, match="did you mean flow_run_name"):
        flow(run_name="x")  # pyright: ignore


def test_local_functions_are_tasks_and_flows_like_others() -> None:
    @task
    def double(n: int) -> int:
        return 2 * n

    @flow
    def inner(n: int) -> int:
        return double(n) + double.submit(n).result()

    @flow
    def outer() -> list[int]:
        return [inner(1), inner(2), *double.map([3, 4]).result()]

    assert outer() == [4, 8, 6, 8]
