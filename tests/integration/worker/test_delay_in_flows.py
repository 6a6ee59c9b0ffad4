"""``.delay()`` in a flow: one run, whichever attempt asks for it, and however long the queue remembers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from tests.integration.worker import served
from tests.integration.worker.conftest import Gate, Sink, Start
from tests.servers.redis import RedisServer

from kapstan import backend as backends
from kapstan import flow
from kapstan.engine import flow_engine
from kapstan.errors import HandBack, UnknownRun
from kapstan.futures import Future
from kapstan.ids import RunId, new_id


def attempts(body: Callable[[], Any], run_id: RunId, number: int) -> Any:
    """What attempt ``number`` of a run of ``body`` gives."""
    spec = flow(name="delays")(body).spec
    run = flow_engine.make_run(spec, run_id, {})
    state = (
        asyncio.run(flow_engine.arun(run, attempt=number)) if spec.is_async else flow_engine.run(run, attempt=number)
    )
    return state.result()


def forget(server: RedisServer, future: Future[Any]) -> None:
    """The record of a run expires, and the next attempt is another process."""
    backends.use(None)
    with server.client() as client:
        (record,) = client.scan_iter(f"*t:{future.memo_reference}")
        assert client.delete(record)


def test_what_the_flow_has_seen_end_is_not_asked_for_again(start: Start, server: RedisServer, sink: Sink) -> None:
    start()
    seen: list[Future[Any]] = []

    def body() -> list[Any]:
        first = served.mark.delay("a")
        results = [first.result(timeout=30), *served.mark.map(["b", "c"], deferred=True).result(timeout=30)]
        if not seen:
            seen.append(first)
            raise HandBack
        return results

    run_id = new_id()
    with pytest.raises(HandBack):
        attempts(body, run_id, 1)
    forget(server, seen[0])
    assert attempts(body, run_id, 2) == ["a", "b", "c"]
    assert sorted(event[1] for event in sink.events) == ["a", "b", "c"]


def test_the_same_in_an_async_flow(start: Start, server: RedisServer, sink: Sink) -> None:
    start()
    seen: list[Future[Any]] = []

    async def body() -> Any:
        first = served.mark.delay("a")
        result = await first.result_async(timeout=30)
        if not seen:
            seen.append(first)
            raise HandBack
        return result

    run_id = new_id()
    with pytest.raises(HandBack):
        attempts(body, run_id, 1)
    forget(server, seen[0])
    assert attempts(body, run_id, 2) == "a"
    assert [event[1] for event in sink.events] == ["a"]


def test_what_was_submitted_and_is_forgotten_is_unknown_and_not_executed_again(
    start: Start, server: RedisServer, sink: Sink
) -> None:
    start()
    seen: list[Future[Any]] = []

    def body() -> Any:
        future = served.mark.delay("a")
        if not seen:
            seen.append(future)
            sink.expect("ran", "a")
            raise HandBack
        return future.result(timeout=30)

    run_id = new_id()
    with pytest.raises(HandBack):
        attempts(body, run_id, 1)
    Future(seen[0].task_run_id).wait(30)
    forget(server, seen[0])
    with pytest.raises(UnknownRun):
        attempts(body, run_id, 2)
    assert len(sink.events) == 1


@pytest.mark.parametrize("waits", [True, False])
def test_a_flow_that_starts_over_submits_anew_what_had_failed(start: Start, sink: Sink, waits: bool) -> None:
    start(limit=1)
    tag = f"once-{waits}"

    @flow(name="starts over", retries=1)
    def starts_over() -> str:
        future = served.fails_once.delay(tag)
        future.wait(30)
        if waits or len(sink.events) > 1:
            return future.result(timeout=30)
        raise ValueError("for another reason")

    assert starts_over() == tag
    assert [event[1] for event in sink.events] == [tag, tag]


def test_equal_calls_stay_two_runs(start: Start, sink: Sink) -> None:
    start()

    @flow(name="two")
    def two() -> list[str]:
        return [future.result(timeout=30) for future in [served.mark.delay("a"), served.mark.delay("a")]]

    assert two() == ["a", "a"]
    assert len(sink.events) == 2


def test_a_background_run_that_is_executed_again_submits_its_runs_once(start: Start, sink: Sink, gate: Gate) -> None:
    start(limit=2)
    run = served.delays_another.delay("a", gate.path)
    os.kill(sink.expect("delayed", "a"), signal.SIGKILL)
    sink.expect("delayed", "a")  # executed again
    gate.open()
    assert run.result(timeout=30) == "a"
    assert len([event for event in sink.events if event[0] == "ran"]) == 1


def test_a_flow_that_it_calls_goes_on_instead_of_beginning_anew(start: Start, sink: Sink, gate: Gate) -> None:
    start()
    run = served.calls_a_flow.delay("a", gate.path)
    os.kill(sink.expect("called", "a"), signal.SIGKILL)
    sink.expect("called", "a")  # executed again
    gate.open()
    assert run.result(timeout=30) == "a"
    assert len([event for event in sink.events if event[0] == "ran"]) == 1
