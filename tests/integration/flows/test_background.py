"""``.submit()`` outside a flow, and background runs seen by their futures, on the embedded server of the home."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.servers.redis import RedisServer

from kapstan import Future, as_completed, backend, flow, ids, states, task, wait
from kapstan.engine.pending import Resolvable
from kapstan.errors import (
    IdempotencyConflict,
    ParameterError,
    RunFailed,
    SerializationError,
    UnfinishedRun,
    UnknownRun,
)
from kapstan.states import State

APP = Path(__file__).with_name("background_app.py")
ROOT = Path(__file__).parents[3]


@task(name="tests: never served")
def idle(x: object = None) -> object:
    return x


@task(name="tests: at once")
def at_once() -> None: ...


@pytest.fixture
def redis(tmp_path: Path, bytecode: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """A Redis of the test's own, with short leases."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(bytecode))
    server = RedisServer(tmp_path / "redis")
    server.start()
    monkeypatch.setenv("KAPSTAN_REDIS_URL", server.url)
    monkeypatch.setenv("KAPSTAN_LEASE_SECONDS", "2")
    monkeypatch.setenv("KAPSTAN_BEAT_SECONDS", "0.5")
    monkeypatch.setenv("SINK", str(tmp_path / "sink"))
    (tmp_path / "sink").touch()
    backend.use(None)
    yield server
    backend.use(None)
    server.kill()


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(APP), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "operator"), **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_submit_runs_in_the_background_of_the_process(redis: RedisServer, tmp_path: Path) -> None:
    app = start("work")
    out, _ = app.communicate(timeout=90)
    assert (out.strip(), app.returncode) == ("[1, 4, 9] 2", 0)
    assert sorted((tmp_path / "sink").read_text().split("\n")) == [
        "",
        *["flaky"] * 2,
        "square 1",
        "square 2",
        "square 3",
    ]
    assert backend.current().queue.sessions() == []  # it said that it goes


def test_a_restart_takes_up_what_was_left(redis: RedisServer, tmp_path: Path) -> None:
    reached = tmp_path / "reached"
    os.mkfifo(reached)
    app = start("left", REACHED=str(reached))
    assert app.stdout is not None
    run_id = app.stdout.readline().strip()
    assert int(reached.read_text()) == app.pid
    assert Future[str](run_id).state.is_running()
    app.kill()
    app.communicate()
    again = start("next", run_id)
    out, _ = again.communicate(timeout=90)
    assert out.strip() == "9 done"
    assert Future[str](run_id).result(timeout=30) == "done"


def test_futures_of_background_runs(redis: RedisServer) -> None:
    queued, other = idle.delay(1), idle.delay(2)
    assert queued.state.is_scheduled()
    assert Future[object](queued.task_run_id) == queued
    queued.wait(timeout=0)
    with pytest.raises(TimeoutError, match="has not ended within 0 seconds; it is Scheduled"):
        queued.result(timeout=0)
    with pytest.raises(UnfinishedRun):
        queued.state.result()
    assert wait([queued, other], timeout=0) == (set(), {queued, other})
    assert Future[object](ids.to_uuid(ids.new_id())).state.is_pending()

    ended = threading.Event()
    queued.add_done_callback(lambda _: ended.set())
    backend.current().queue.cancel(ids.parse(queued.task_run_id))
    assert ended.wait(30)
    assert queued.state.is_cancelled()
    assert next(as_completed([queued, other])) == queued
    with pytest.raises(TimeoutError, match="1 of 2 runs"):
        list(as_completed([queued, other], timeout=0))


def test_wrong_arguments_are_refused_at_the_call(redis: RedisServer) -> None:
    with pytest.raises(ParameterError):
        idle.delay(1, 2)  # pyright: ignore
    with pytest.raises(SerializationError, match=r"argument 'x' of tests: never served \(_thread\.lock\)"):
        idle.delay(threading.Lock())
    assert backend.current().queue.runs() == []


def test_an_idempotency_key_submits_once(redis: RedisServer) -> None:
    first = idle.apply_async((1,), idempotency_key="order 7")
    assert idle.apply_async((1,), idempotency_key="order 7") == first
    with pytest.raises(IdempotencyConflict):
        idle.apply_async((2,), idempotency_key="order 7")
    assert len(backend.current().queue.runs()) == 1


def test_delay_in_a_flow_is_a_duplicate_when_the_flow_runs_again(redis: RedisServer) -> None:
    submitted: list[list[Future[object]]] = []

    @flow(name="delaying", retries=1)
    def delaying() -> None:
        submitted.append([idle.delay(1), idle.delay(1), idle.delay(2)])
        if len(submitted) == 1:
            raise ValueError("again")

    delaying()
    assert submitted[0] == submitted[1]
    assert len(set(submitted[0])) == 3
    assert len(backend.current().queue.runs()) == 3


def test_who_waits_for_a_run_that_the_queue_does_not_know_is_told(redis: RedisServer, tmp_path: Path) -> None:
    """Never accepted, or lost with the last writes of a Redis that was restarted."""
    never = Future(str(ids.to_uuid(ids.new_id())))
    with pytest.raises(UnknownRun, match=r"run .*: The queue does not know the run"):
        never.result(timeout=30)
    assert never.state.is_pending()
    redis.save_copy(tmp_path / "copy")
    lost = idle.delay()
    told: list[Exception] = []
    waiting = threading.Thread(target=lambda: told.append(lost.result(raise_on_failure=False)))
    waiting.start()
    with redis.client() as client:
        while not client.pubsub_channels("*:c:*"):
            time.sleep(0.002)
    redis.kill()
    redis.put_back(tmp_path / "copy")
    redis.start()
    waiting.join(60)
    assert [type(error) for error in told] == [UnknownRun]
    assert list(as_completed([lost, never], timeout=30))


class Failing(Resolvable):
    """A future of this process whose run failed."""

    def final_state(self) -> State:
        return states.Failed(message="so it was")


def test_apply_async_submits_when_what_it_waits_for_has_completed(redis: RedisServer) -> None:
    @flow(name="tests: apply-async-waits")
    def waiting() -> tuple[bool, str]:
        first = at_once.submit()
        run = idle.apply_async(("x",), wait_for=[first])
        return first.done, run.state.name

    assert waiting() == (True, "Scheduled")


def test_apply_async_submits_nothing_if_what_runs_in_this_process_did_not_complete(redis: RedisServer) -> None:
    for failed in (states.Failed(message="so it was"), [Failing()]):
        with pytest.raises(RunFailed, match="so it was"):
            idle.apply_async(wait_for=[failed])
    assert backend.current().queue.runs() == []
