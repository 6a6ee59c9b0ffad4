"""A flow's process dies on one machine, in an effect, and its next attempt runs on another one, where no process number
tells whether the first may still act: it waits until somebody has seen the end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.flows.conftest import Attempt, Runs
from tests.servers.redis import RedisServer

from kapstan import backend, ids
from kapstan.ids import RunId, executor_of

FLOWS = Path(__file__).with_name("charging_flow.py")


@pytest.fixture
def runs(tmp_path: Path, bytecode: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    server = RedisServer(tmp_path / "redis")
    server.start()
    monkeypatch.setenv("KAPSTAN_REDIS_URL", server.url)
    backend.use(None)
    started = Runs(tmp_path, backend.current().settings, bytecode)
    yield started
    started.stop()
    backend.use(None)
    server.kill()


def start(runs: Runs, monkeypatch: pytest.MonkeyPatch, flow: str, run_id: RunId, attempt: int) -> Attempt:
    monkeypatch.setenv("MACHINE", f"machine {attempt}")
    words = ["run", f"{FLOWS}:{flow}", "--run-id", str(ids.to_uuid(run_id)), "--attempt", str(attempt)]
    return runs.command(words, gate=attempt == 1 and flow != "gives_up")


def held(runs: Runs, monkeypatch: pytest.MonkeyPatch, flow: str, run_id: RunId) -> tuple[Attempt, int]:
    """The first attempt, behind its effect, and the pid that executes it."""
    first = start(runs, monkeypatch, flow, run_id, 1)
    return first, first.reached()


@pytest.mark.parametrize(("flow", "ends"), [("once", [None, "Suspended"]), ("again", [None, "Completed"])])
def test_its_supervisor_tells_what_it_saw(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, flow: str, ends: list[str | None]
) -> None:
    run_id = ids.new_id()
    first, pid = held(runs, monkeypatch, flow, run_id)
    os.kill(pid, signal.SIGKILL)
    assert first.ends() != 0
    seen = backend.current().queue.seen_end(executor_of(run_id, 1))
    assert seen is not None
    assert (seen["cause"], seen["host"]) == ("killed by SIGKILL", ids.host_label())
    warned = [line.partition(" WARNING ")[2] for line in seen["log"] if " WARNING " in line]
    assert warned == [f"about to do {runs.effects[0]}"]
    second = start(runs, monkeypatch, flow, run_id, 2)
    assert second.ends() == (1 if flow == "once" else 0), second.errors
    assert runs.ends(run_id) == ends
    assert runs.effects == (["charge"] if flow == "once" else ["book", "book"])


def test_where_nobody_is_left_it_waits_for_who_sees_the_container(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = ids.new_id()
    first, pid = held(runs, monkeypatch, "once", run_id)
    os.kill(first.pid, signal.SIGSTOP)  # so that it notices nothing
    os.kill(pid, signal.SIGKILL)
    first.kill()
    queue = backend.current().queue
    assert queue.seen_end(executor_of(run_id, 1)) is None, "the fault did not bite: somebody saw it"
    second = start(runs, monkeypatch, "once", run_id, 2)
    second.await_line("waits for a run on")
    assert runs.ends(run_id) == [None, None]
    queue.note_end(executor_of(run_id, 1), {"seen": "its container has terminated with exit code 137"})
    assert second.ends() == 1, second.errors
    assert runs.ends(run_id) == [None, "Suspended"]
    assert runs.effects == ["charge"]


def test_a_flow_that_completes_and_could_not_settle_a_key_is_seen_to_end(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = ids.new_id(), ids.new_id()
    monkeypatch.setenv("MACHINE", "machine 1")
    gone = start(runs, monkeypatch, "gives_up", first, 1)
    assert gone.ends() == 0, gone.errors
    assert "is not noted yet" in gone.errors, "the fault did not bite"
    assert backend.current().queue.seen_end(executor_of(first, 1)) is not None
    monkeypatch.setenv("MACHINE", "machine 2")
    words = ["run", f"{FLOWS}:gives_up", "--run-id", str(ids.to_uuid(other)), "--attempt", "1"]
    second = runs.command(words)
    assert second.ends() == 0, second.errors
    assert runs.effects == ["send", "send"]
