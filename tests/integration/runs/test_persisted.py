"""``persist_result=True``: a background run's result is read by id when the queue knows nothing of the run any more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from click.testing import Result
from tests.servers.redis import RedisServer

from kapstan import backend as backends
from kapstan import ids, results, task
from kapstan.backend import Backend
from kapstan.codec import JSON
from kapstan.engine import values
from kapstan.engine.background import BackgroundEngine
from kapstan.errors import SignatureError, UnknownRun
from kapstan.ids import RunId, Token, new_id
from kapstan.ports import Claim, Outcome
from kapstan.runs import persisted
from kapstan.runs.retention import Ages
from kapstan.runs.sweep import Sweep
from kapstan.states import EffectClass
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


@pytest.mark.parametrize("size", [0, 3, 20_000])
def test_a_result_outlives_the_record(backend: Backend, kapstan: Command, forget: Any, size: int) -> None:
    run_id = executed(persists, size)
    forget(run_id)
    assert results.read(run_id) == [size] * size
    state = results.read_task_run(run_id)
    assert (state.is_completed(), state.result()) == (True, [size] * size)
    shown = kapstan("task-run", "result", run_id)
    assert (shown.exit_code, json.loads(shown.stdout)) == (0, [size] * size)


def test_without_the_option_nobody_knows_it_any_more(backend: Backend, kapstan: Command, forget: Any) -> None:
    run_id = executed(passes, 3)
    forget(run_id)
    with pytest.raises(UnknownRun):
        results.read(run_id)
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


@pytest.mark.parametrize("fails", [False, True])
def test_of_two_that_executed_a_run_one_result_counts(backend: Backend, fails: bool) -> None:
    """The first one's claim was taken for lost; its worker stored the result and then died, or was refused."""
    run_id, number = new_id(), iter((1, 2))

    def counting() -> int:
        found = next(number)
        if found == 2 and fails:
            raise ValueError("no")
        return found

    subject = Task(counting, name="persisted twice", persist_result=True)
    engine = BackgroundEngine({subject.spec.identity: subject.spec}, backend)
    key = values.arguments_key(run_id, subject.spec.identity)
    arguments = backend.codec.seal(JSON, b"[[],{}]", "arguments", key)
    ended: list[Outcome] = []
    for epoch in (1, 2):
        outcome = engine.run(Claim(run_id, subject.spec.identity, Token(1, epoch), 1, 0, EffectClass.PURE, arguments))
        assert type(outcome) is Outcome
        assert engine.must_store
        ended.append(engine.stored(outcome))
    engine.close()
    assert [outcome.state for outcome in ended] == ["completed", "completed"]
    assert ended[0].envelope == ended[1].envelope == persisted.envelope_of(backend, run_id)
    assert values.open_result(backend, ended[1].envelope, run_id) == 1
