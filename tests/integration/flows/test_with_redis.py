"""Flow runs where a Redis is configured: lease and index stand there; without it the journal is enough."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.integration.flows.conftest import SHAPES, Runs
from tests.servers.redis import RedisServer

from kapstan import backend, flow, ids
from kapstan.ids import RunId
from kapstan.runs.flow_runs import FlowRuns


@pytest.fixture
def redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    server.start()
    monkeypatch.setenv("KAPSTAN_REDIS_URL", server.url)
    monkeypatch.setenv("KAPSTAN_REDIS_RETRY_SECONDS", "1")
    yield server
    server.kill()


@pytest.fixture
def runs(redis: RedisServer, tmp_path: Path, bytecode: Path) -> Iterator[Runs]:
    backend.use(None)
    started = Runs(tmp_path, backend.current().settings, bytecode)
    yield started
    started.stop()
    backend.use(None)


@contextmanager
def indexed(run_id: RunId) -> Generator[threading.Event]:
    """An event that is set when the index holds something new about the run."""
    saved, stop = threading.Event(), threading.Event()

    def watch() -> None:
        backend.current().flow_runs.watch(lambda changed: saved.set() if changed == run_id else None, stop.is_set)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield saved
    finally:
        stop.set()
        thread.join()


def test_the_index_tells_how_a_run_goes(runs: Runs) -> None:
    run_id = ids.new_id()
    with indexed(run_id) as saved:
        first = runs.start("loop", run_id, 1, gate=True)
        pid = first.reached()
        assert saved.wait(30)
    summary = runs.records.summary(run_id)
    assert summary is not None
    assert (summary["state"], summary["attempt"], summary["pid"]) == ("RUNNING", 1, pid)
    assert runs.records.ended(run_id) is None
    twin = runs.start("loop", run_id, 1)
    assert twin.ends() == 75
    assert "at work already" in twin.errors
    first.kill()
    second = runs.start("loop", run_id, 2)  # takes the lease of the lower attempt at once
    assert second.ends() == 0, second.errors
    ended = runs.records.ended(run_id)
    assert ended is not None
    assert ended.end is not None
    assert (ended.number, ended.end.outcome, ended.end.result_ref) == (2, "Completed", f"flows/{run_id}")


def test_a_flow_goes_on_without_redis(runs: Runs, redis: RedisServer) -> None:
    run_id = ids.new_id()
    redis.kill()
    attempt = runs.start("loop", run_id, 1)
    assert attempt.ends() == 0, attempt.errors
    assert "its lease cannot be renewed" in attempt.errors
    assert "The index does not hold the state" in attempt.errors
    assert runs.ends(run_id) == ["Completed"]
    redis.start()


def test_the_control_plane_declares_what_a_run_could_not_say(runs: Runs) -> None:
    run_id = ids.new_id()
    with indexed(run_id) as saved:
        first = runs.start("loop", run_id, 1, gate=True)
        first.reached()
        assert saved.wait(30)
    first.kill()
    runs.records.declare(run_id, "Crashed", "lost its process 5 times")
    runs.records.declare(run_id, "Crashed", "lost its process 5 times")
    summary = runs.records.summary(run_id)
    assert summary is not None
    assert (summary["state"], summary["message"], summary["flow"]) == ("CRASHED", "lost its process 5 times", "loop")
    assert runs.ends(run_id) == [None, "Crashed"]
    assert [str(ended.end.outcome) for ended in [runs.records.ended(run_id)] if ended and ended.end] == ["Crashed"]


def test_a_run_that_was_declared_crashed_and_lives_is_fenced_and_goes_on_when_a_person_says_so(runs: Runs) -> None:
    run_id = ids.new_id()
    first = runs.start("loop", run_id, 1, gate=True)
    first.reached()
    runs.records.declare(run_id, "Crashed", "its node is lost")
    first.terminate()
    assert first.ends() == 75, first.errors
    assert runs.ends(run_id) == [None, "Crashed"], "it wrote nothing more"
    assert len(runs.effects) == 3
    start = FlowRuns(backend.current()).resume(run_id)
    assert (start.attempt, start.again) == (3, True)
    told = runs.start("loop", run_id, 3)
    assert told.ends() == 1, "nothing but a person's word has it go on"
    uuid = str(ids.to_uuid(run_id))
    resumed = runs.command(["run", f"{SHAPES}:loop", "--run-id", uuid, "--attempt", "3", "--again"])
    assert resumed.ends() == 0, resumed.errors
    assert (runs.effects, runs.ends(run_id)) == (["step 1"] * 6, [None, "Crashed", "Completed"])


def test_a_program_that_runs_many_flows_keeps_no_thread_of_them(redis: RedisServer) -> None:
    backend.use(None)

    @flow(name="counted part")
    def part() -> None: ...

    @flow(name="counted whole")
    def whole() -> None:
        for _ in range(5):
            part()

    try:
        whole()  # threads of the process itself are there from now on
        before = set(threading.enumerate())
        whole()
        for thread in set(threading.enumerate()) - before:
            thread.join(10)
        assert set(threading.enumerate()) - before == set()
    finally:
        backend.use(None)
