"""``persist_result=True``: a background run's result is read by id when the queue knows nothing of the run any more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import redis
from click.testing import Result
from tests.contract.queue.makers import worker
from tests.servers.redis import RedisServer

from kapstan import backend as backends
from kapstan import flow, ids, results, runtime, task
from kapstan.backend import Backend
from kapstan.engine.background import BackgroundEngine
from kapstan.errors import IdempotencyConflict, SignatureError, UnknownRun
from kapstan.futures import Future, as_completed
from kapstan.ids import RunId, derived_id, to_uuid
from kapstan.ports import Outcome
from kapstan.runs.retention import Ages
from kapstan.runs.sweep import Sweep
from kapstan.tasks import Task

Command = Callable[..., Result]


@task(name="persisted", persist_result=True)
def persists(size: int) -> list[int]:
    return [size] * size


@task(name="not persisted")
def passes(size: int) -> list[int]:
    return [size] * size


@pytest.fixture
def forget(backend: Backend, shared_server: RedisServer) -> Iterator[Callable[[RunId], None]]:
    client = redis.Redis.from_url(shared_server.url)

    def forget(run_id: RunId) -> None:
        """As the record's TTL does; this process goes on as another one would."""
        assert client.delete(f"{{{backend.settings.namespace}}}:t:{run_id}") == 1
        backends.use(backend.settings)

    yield forget
    client.close()


def executed(subject: Task[..., Any], size: int) -> RunId:
    future = subject.submit(size)
    assert future.result(timeout=60) == [size] * size
    return ids.parse(future.task_run_id)


def work(subject: Task[..., Any]) -> None:
    """A worker takes one run and ends it."""
    backend, spec = backends.current(), subject.spec
    engine = BackgroundEngine({spec.identity: spec}, backend)
    with closing(worker(backend.queue, (spec.identity,))) as each, closing(engine):
        (claim,) = each.lane.step([], 1).claims
        outcome = engine.run(claim)
        assert type(outcome) is Outcome
        each.lane.step([engine.stored(outcome)], 0)


@pytest.mark.parametrize("size", [0, 3, 20_000])
def test_a_result_outlives_the_record(backend: Backend, kapstan: Command, forget: Any, size: int) -> None:
    run_id = executed(persists, size)
    forget(run_id)
    assert results.read(run_id) == [size] * size
    state = results.read_task_run(run_id)
    assert (state.is_completed(), state.result()) == (True, [size] * size)
    shown = kapstan("task-run", "result", run_id)
    assert (shown.exit_code, json.loads(shown.stdout)) == (0, [size] * size)


@pytest.mark.parametrize("size", [0, 3, 20_000])
def test_a_future_gives_it(backend: Backend, forget: Any, size: int) -> None:
    run_id = executed(persists, size)
    forget(run_id)
    future: Future[list[int]] = Future(to_uuid(run_id))
    assert (future.state.name, future.done) == ("Completed", True)
    assert future.result(timeout=5) == [size] * size
    assert asyncio.run(future.result_async()) == [size] * size
    assert list(as_completed([future], timeout=5)) == [future]


def test_who_waits_for_it_goes_on(backend: Backend, forget: Any) -> None:
    run_id = executed(persists, 3)
    forget(run_id)
    add = Task(len, name="length")
    future: Future[list[int]] = Future(to_uuid(run_id))
    later = [add.apply_async(([],), wait_for=[future]), add.delay(future)]
    for _ in later:
        work(add)
    assert [each.result(timeout=5) for each in later] == [0, 3]


def test_a_flow_that_sees_it_has_it_in_its_journal(backend: Backend, shared_server: RedisServer) -> None:
    seen: list[str] = []

    @flow
    def asks() -> list[int]:
        future = persists.delay(3)
        work(persists)
        with redis.Redis.from_url(shared_server.url) as client:
            assert client.delete(f"{{{backend.settings.namespace}}}:t:{future.memo_reference}") == 1
        seen.extend((str(future.task_run_id), str(runtime.flow_run.id)))
        return future.result()

    assert asks() == [3, 3, 3]
    backend.store.delete(["values/{0}/{0}/outcome".format(ids.parse(seen[0]))])
    assert results.read(seen[0], flow_run_id=seen[1]) == [3, 3, 3]


def test_without_the_option_nobody_knows_it_any_more(backend: Backend, kapstan: Command, forget: Any) -> None:
    run_id = executed(passes, 3)
    forget(run_id)
    with pytest.raises(UnknownRun):
        results.read(run_id)
    with pytest.raises(UnknownRun):
        Future(to_uuid(run_id)).result()
    assert kapstan("task-run", "result", run_id).exit_code != 0


def test_retention_says_how_long(backend: Backend, forget: Any) -> None:
    run_id = executed(persists, 20_000)
    later = backend.store.now() + 10 * 86_400
    assert not Sweep(backend, Ages(86_400.0), None, now=later).run().items, "the queue still knows the run"
    forget(run_id)
    backend = backends.current()
    assert not Sweep(backend, Ages(20 * 86_400.0), None, now=later).run().items
    assert Sweep(backend, Ages(86_400.0), None, now=later).run().items == {"value": 2}
    with pytest.raises(UnknownRun):
        results.read(run_id)


def test_what_stands_in_the_place_of_another_run_is_refused(backend: Backend, forget: Any) -> None:
    one, other = executed(persists, 1), executed(persists, 2)
    name = "values/{0}/{0}/outcome".format
    stored = backend.store.get(name(one))
    assert stored is not None
    backend.store.put(name(other), stored.body)
    forget(other)
    with pytest.raises(SignatureError):
        results.read(other)


def test_an_idempotency_key_holds_as_long_as_the_result(backend: Backend, forget: Any, kapstan: Command) -> None:
    ran: list[int] = []

    def counted(size: int) -> list[int]:
        ran.append(size)
        return [len(ran)] * size

    subject = Task(counted, name="persisted under a key", persist_result=True)

    def asked(size: int) -> Any:
        future = subject.apply_async((size,), idempotency_key="order-7")
        assert future.task_run_id == to_uuid(run_id)
        work(subject)
        return future.result(timeout=30)

    run_id = derived_id("idempotency key", backend.settings.namespace, subject.spec.identity, "order-7")
    assert asked(3) == [1, 1, 1]
    forget(run_id)
    assert (asked(3), ran) == ([1, 1, 1], [3])
    forget(run_id)
    with pytest.raises(IdempotencyConflict, match="was used with other arguments: run"):
        asked(4)
    assert ran == [3]
    assert kapstan("task-run", "delete", run_id).exit_code == 0
    assert (asked(4), ran) == ([2] * 4, [3, 4])
