"""Submits with wishes, and what real workers make of them: deadlines to begin, runs that wait for runs, keys, many."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner
from tests.integration.worker import served
from tests.integration.worker.conftest import Gate, Sink, Start
from tests.integration.worker.test_store_away import LocalFault
from tests.servers.redis import RedisServer

from kapstan import backend as backends
from kapstan import flow
from kapstan.cli.task_run import command
from kapstan.errors import (
    CancelledRun,
    ConfigurationError,
    IdempotencyConflict,
    ParameterError,
    RunFailed,
    SerializationError,
    StoreRefused,
)
from kapstan.futures import Future
from kapstan.states import StateType


def is_expired(future: Future[object]) -> bool:
    with pytest.raises(CancelledRun, match="not begun within the time that expires= gave it"):
        future.result(timeout=30)
    return (future.state.type, future.state.name) == (StateType.CANCELLED, "Expired")


def test_without_a_worker_it_ends_in_time_and_says_why(server: RedisServer) -> None:
    futures = [
        served.mark.apply_async(("a",), expires=0.2),
        served.mark.apply_async(("b",), expires=timedelta(seconds=0.2)),
        served.mark.apply_async(("c",), expires=datetime.now(UTC)),
        served.mark.with_options(expires=0.2).delay("d"),
        *served.mark.with_options(expires=0.2).map(["e", "f"], deferred=True),
    ]
    assert all(is_expired(future) for future in futures)
    listed = CliRunner().invoke(command, ["ls", "--state", "cancelled"])
    assert listed.output.count("Expired") == 6
    assert "not begun within the time" in listed.output


def test_behind_a_long_run_it_never_begins(server: RedisServer, start: Start, sink: Sink, gate: Gate) -> None:
    start(limit=1)
    holding = served.hold.delay("long", gate.path)
    sink.expect("began", "long")
    late = served.mark.apply_async(("late",), expires=0.3)
    plain = served.mark.delay("plain")
    assert is_expired(late)
    gate.open()
    assert (holding.result(timeout=30), plain.result(timeout=30)) == ("long", "plain")
    assert [event[1] for event in sink.events if event[0] == "ran"] == ["plain"]


class TestWaitFor:
    def test_it_starts_when_the_others_have_completed(self, start: Start, sink: Sink, gate: Gate) -> None:
        start(limit=1)
        first = served.hold.delay("first", gate.path)
        sink.expect("began", "first")
        later = [
            served.mark.apply_async(("future",), wait_for=[first]),
            served.mark.apply_async(("id",), wait_for=[str(first.task_run_id)]),
            *served.mark.map(["a", "b"], deferred=True, wait_for=first),
            *served.mark.apply_async_many([(("c",), {}), ((), {"tag": "d"})], wait_for=[[first]]),
        ]
        listed = CliRunner().invoke(command, ["ls", "--state", "scheduled"])
        assert listed.output.count(f"waits for run {first.task_run_id} to complete") == 6
        gate.open()
        assert [run.result(timeout=30) for run in later] == ["future", "id", "a", "b", "c", "d"]

    def test_one_that_does_not_complete_fails_those_that_wait_for_it(self, start: Start, sink: Sink) -> None:
        broken, cancelled = served.fails_once.delay("broken"), served.mark.apply_async(("cancelled",), countdown=3600)
        chain = [served.mark.apply_async(("1",), wait_for=[broken])]
        chain.append(served.mark.apply_async(("2",), wait_for=chain[:]))
        other = served.mark.apply_async(("3",), wait_for=[cancelled])
        unknown = served.mark.apply_async(("4",), wait_for=[uuid4()])
        backends.current().queue.cancel(cancelled.memo_reference)
        start(limit=1)
        for run, reason in (
            (chain[0], f"Failed \\(run {broken.task_run_id}"),
            (chain[1], f"Failed \\(run {chain[0].task_run_id}"),
            (other, f"Cancelled \\(run {cancelled.task_run_id}"),
            (unknown, "Unknown to the queue"),
        ):
            with pytest.raises(RunFailed, match=f"something that it waits for ended as {reason}"):
                run.result(timeout=30)
            assert run.state.name == "Failed"
        assert not [event for event in sink.events if event[:2] in {("ran", tag) for tag in "1234"}]

    def test_who_waits_for_its_arguments_is_asleep_meanwhile(self, start: Start, sink: Sink, gate: Gate) -> None:
        start(limit=1)
        first = served.hold.delay("first", gate.path)
        sink.expect("began", "first")
        later = served.mark.delay(first)
        record = backends.current().background_runs.look(later.memo_reference)
        assert record is not None
        assert (record.record.state, record.due) == ("delayed", None)
        gate.open()
        assert later.result(timeout=30) == "first"

    @pytest.mark.parametrize("given", ["no id", 7, [3], object()])
    def test_what_is_no_run_is_refused(self, server: RedisServer, given: Any) -> None:
        with pytest.raises(ConfigurationError, match="wait_for="):
            served.mark.apply_async(("x",), wait_for=[given])

    def test_a_run_does_not_wait_for_itself(self, server: RedisServer) -> None:
        first = served.mark.apply_async(("x",), idempotency_key="self")
        with pytest.raises(ConfigurationError, match="would wait for itself"):
            served.mark.apply_async(("x",), idempotency_key="self", wait_for=[first])


class TestMany:
    def test_one_bad_call_submits_none(self, server: RedisServer) -> None:
        calls: list[Any] = [((str(number),), {}) for number in range(10_000)]
        for bad, error in (((Lock(),), SerializationError), ((1, 2), ParameterError)):
            calls[7_000] = (bad, {})
            with pytest.raises(error):
                served.mark.apply_async_many(calls)
        for bad in ("ab", (1, 2), ((1,),), None):
            calls[7_000] = bad
            with pytest.raises(ConfigurationError, match=r"calls\[7000\]"):
                served.mark.apply_async_many(calls)
        assert backends.current().queue.runs() == []

    def test_what_fails_for_a_late_call_submits_none(self, server: RedisServer) -> None:
        calls: list[Any] = [((str(number),), {}) for number in range(3_000)]

        def group(parameters: dict[str, Any]) -> str:
            if parameters["tag"] == "1500":
                raise LookupError("no tenant")
            return "tenant"

        with pytest.raises(LookupError, match="no tenant"):
            served.mark.with_options(group=group).apply_async_many(calls)
        with pytest.raises(ConfigurationError, match="the function for groups gave 1500"):
            served.mark.with_options(group=lambda given: int(given["tag"])).apply_async_many(calls[1500:])
        keys = [f"key {number}" for number in range(3_000)]
        itself = served.mark.apply_async(("1500",), idempotency_key="key 1500", countdown=3600)
        with pytest.raises(ConfigurationError, match="would wait for itself"):
            served.mark.apply_async_many(calls, idempotency_keys=keys, wait_for=[itself])
        assert [record.run_id for record in backends.current().queue.runs()] == [itself.memo_reference]

    def test_a_store_that_takes_not_all_of_the_arguments_submits_none(self, server: RedisServer) -> None:
        calls: list[Any] = [*(((str(number),), {}) for number in range(1_000)), (("x" * 20_000,), {})]
        backends.current().store.put("proof", b"that it takes what it can")
        fault = LocalFault()
        fault.begin()
        with pytest.raises(StoreRefused):
            served.mark.apply_async_many(calls)
        fault.end()
        assert backends.current().queue.runs() == []
        assert len(served.mark.apply_async_many(calls)) == len(calls)
        assert backends.current().queue.depth([served.mark.task_key]).ready == len(calls)

    def test_keys_make_each_call_one_run_and_a_conflict_is_named(self, server: RedisServer) -> None:
        calls: list[Any] = [((str(number),), {}) for number in range(600)]
        keys = [f"order {number}" for number in range(600)]
        seven = served.mark.apply_async(("another",), idempotency_key="order 7")
        for _ in range(2):
            with pytest.raises(IdempotencyConflict, match="idempotency_key 'order 7' of mark was used with other"):
                served.mark.apply_async_many(calls, idempotency_keys=keys)
        assert backends.current().queue.depth([served.mark.task_key]).ready == 600
        assert served.mark.apply_async((), {"tag": "8"}, idempotency_key="order 8").state.is_scheduled()
        with pytest.raises(IdempotencyConflict, match="idempotency_key 'order 7'"):
            served.mark.apply_async(("7",), idempotency_key="order 7")
        assert seven.state.is_scheduled()
        for wrong in (keys[:-1], [*keys[:-1], keys[0]], [*keys[:-1], ""], [*keys[:-1], 5]):
            with pytest.raises(ConfigurationError, match="idempotency_keys"):
                served.mark.apply_async_many(calls, idempotency_keys=wrong)  # type: ignore[arg-type]


def test_a_debounce_runs_the_last_of_many_submits(server: RedisServer, start: Start, sink: Sink) -> None:
    start(limit=1)
    futures = [served.mark.apply_async((str(at),), replace_key="page", countdown=3600) for at in range(20)]
    futures.append(served.mark.apply_async(("last",), replace_key="page"))
    assert {future.result(timeout=30) for future in futures} == {"last"}
    assert [event[1] for event in sink.events if event[0] == "ran"] == ["last"]
    assert served.mark.apply_async(("next",), replace_key="page").result(timeout=30) == "next"
    with pytest.raises(ConfigurationError, match="idempotency_key='a' and replace_key='b': give one"):
        served.mark.apply_async(("x",), idempotency_key="a", replace_key="b")

    @flow(name="replaces-in-a-flow")
    def replaces() -> None:
        served.mark.apply_async(("x",), replace_key="page")

    with pytest.raises(ConfigurationError, match="replace_key='page' of mark in a flow"):
        replaces()
