"""Background runs with effects, under workers that are killed and stopped: never twice, in doubt a person decides."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.integration.keyed.charging import effects
from tests.integration.worker import charged
from tests.integration.worker.conftest import Gate, Sink
from tests.servers.redis import RedisServer
from tests.servers.worker import Worker, await_exit

from kapstan import backend, ids
from kapstan.cli.task_run import command
from kapstan.errors import NotPossible, ParkedRun
from kapstan.futures import Future
from kapstan.ports.register import RegisterRecord, RegisterState
from kapstan.runs.parked import ParkedKeys
from kapstan.runs.task_runs import TaskRuns

MODULE = "tests.integration.worker.charged"
Begin = Callable[..., Worker]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EFFECTS", str(tmp_path))
    return tmp_path


@pytest.fixture
def begin(server: RedisServer, sink: Sink, folder: Path) -> Iterator[Begin]:
    workers: list[Worker] = []

    def begin(limit: int = 1) -> Worker:
        workers.append(Worker(MODULE, limit=limit))
        return workers[-1].ready()

    yield begin
    for worker in workers:
        worker.close()


def register_of(task: str) -> RegisterRecord:
    register = backend.current().register
    (key,) = [key for key in register.all_keys() if key.task == task]
    entry = register.read(key)
    assert entry is not None
    return entry.record


def parks(future: Future[Any]) -> str:
    with pytest.raises(ParkedRun) as raised:
        future.result(timeout=30)
    assert future.state.name == "Parked"
    assert not future.state.is_final()
    return str(raised.value)


def cli(*arguments: str) -> str:
    answer = CliRunner().invoke(command, list(arguments))
    assert answer.exit_code == 0, answer.output
    return answer.output


def test_a_child_that_dies_in_the_effect_parks_its_run_and_a_person_commits_it(
    begin: Begin, sink: Sink, gate: Gate, folder: Path
) -> None:
    begin()
    future = charged.once.delay("7", gate.path)
    os.kill(sink.expect("began", "7"), signal.SIGKILL)
    assert "key" in parks(future)
    record = register_of("charged-once")
    assert (record.state, record.epoch) == (RegisterState.PARKED, 1)
    assert record.holder is not None
    seen = backend.current().queue.seen_end(record.holder.executor)
    assert seen is not None, "the supervisor did not note what it saw"
    assert seen["cause"] == "killed by SIGKILL"
    assert record.evidence["cause"] == "killed by SIGKILL"
    assert record.evidence["host"] == record.holder.host
    assert [line.partition(" WARNING ")[2] for line in record.evidence["log"]] == ["charging 7"]
    inspected = json.loads(cli("inspect", str(future.task_run_id), "-o", "json"))["doubt"]
    assert (inspected["state"], inspected["evidence"]["log"]) == ("parked", record.evidence["log"])
    assert inspected["begun"] == record.begun
    assert json.loads(cli("inspect", inspected["key"], "-o", "json")) == inspected
    listed = cli("ls", "--state", "parked", "-o", "json")
    assert str(future.task_run_id) in listed
    assert "killed by SIGKILL" in cli("resolve", str(future.task_run_id))
    said = cli("resolve", str(future.task_run_id), "--committed", '"charged by hand"')
    assert "1 runs go on" in said
    assert future.result(timeout=30) == "charged by hand"
    assert len(effects(folder, "7")) == 1
    assert charged.once.delay("7", gate.path).result(timeout=30) == "charged by hand"
    assert len(effects(folder, "7")) == 1


def test_what_did_not_happen_is_done_once_a_person_says_so(begin: Begin, sink: Sink, gate: Gate, folder: Path) -> None:
    begin()
    future = charged.once.delay("8", gate.path)
    os.kill(sink.expect("began", "8"), signal.SIGKILL)
    parks(future)
    gate.open()
    cli("resolve", str(future.task_run_id), "--not-applied")
    assert future.result(timeout=30) == "charged 8"
    assert [line[2] for line in effects(folder, "8")] == [1, 2], "each execution has a greater token"
    with pytest.raises(NotPossible, match="not in doubt"):
        ParkedKeys(backend.current()).say_not_applied(ParkedKeys(backend.current()).find(effects(folder, "8")[0][1]))


def test_what_was_said_of_one_execution_does_not_reach_the_next(begin: Begin, sink: Sink, gate: Gate) -> None:
    """Two people look at the first; one has it run again, which is in doubt too; then comes the answer of the other."""
    begin()
    future = charged.once.delay("11", gate.path)
    run = str(future.task_run_id)
    os.kill(sink.expect("began", "11"), signal.SIGKILL)
    parks(future)
    (looked_at,) = re.findall(r'"epoch": (\d+)', cli("resolve", run))
    cli("resolve", run, "--not-applied", "--epoch", looked_at)
    os.kill(sink.expect("began", "11"), signal.SIGKILL)
    parks(future)
    late = CliRunner().invoke(command, ["resolve", run, "--not-applied", "--epoch", looked_at])
    assert late.exit_code != 0
    assert "epoch 1 is over, epoch 2 is in doubt now" in str(late.exception)
    assert register_of("charged-once").state is RegisterState.PARKED


def test_a_run_goes_on_though_whoever_decided_died_before_it_did(begin: Begin, sink: Sink, gate: Gate) -> None:
    begin()
    future = charged.once.delay("12", gate.path)
    run = str(future.task_run_id)
    os.kill(sink.expect("began", "12"), signal.SIGKILL)
    parks(future)
    parked = ParkedKeys(backend.current())
    parked.say_applied(parked.find(run), "by hand")  # and no more
    again = CliRunner().invoke(command, ["resolve", run, "--committed", '"by hand"'])
    assert "is committed and not in doubt" in str(again.exception)
    assert future.result(timeout=30) == "by hand"


def test_nobody_can_say_so_before_the_horizon(begin: Begin, sink: Sink, gate: Gate) -> None:
    begin()
    future = charged.patient.delay("9", gate.path)
    os.kill(sink.expect("began", "9"), signal.SIGKILL)
    parks(future)
    parked = ParkedKeys(backend.current())
    key = parked.find(str(future.task_run_id))
    with pytest.raises(NotPossible, match="is parked: decide on it"):
        TaskRuns(backend.current()).cancel(ids.parse(future.task_run_id))
    with pytest.raises(NotPossible, match="may still arrive; say it again in 36"):
        parked.say_not_applied(key)
    assert register_of("charged-patient").state is RegisterState.PARKED


def test_an_idempotent_run_goes_on_with_its_key_and_a_greater_token(
    begin: Begin, sink: Sink, gate: Gate, folder: Path
) -> None:
    begin()
    future = charged.again.delay("10", gate.path)
    os.kill(sink.expect("began", "10"), signal.SIGKILL)
    gate.open()
    assert future.result(timeout=30) == "charged 10"
    first, second = effects(folder, "10")
    assert first[1] == second[1]
    assert (first[2], second[2]) == (1, 2)


def test_a_worker_that_dies_whole_parks_what_it_did(begin: Begin, sink: Sink, gate: Gate, folder: Path) -> None:
    first = begin()
    future = charged.once.delay("11", gate.path)
    sink.expect("began", "11")
    first.kill()
    begin()
    parks(future)
    assert len(effects(folder, "11")) == 1
    assert "is gone" in register_of("charged-once").evidence["seen"]


def test_a_worker_that_is_stopped_is_not_dead(begin: Begin, sink: Sink, gate: Gate, folder: Path) -> None:
    first = begin()
    future = charged.again.delay("12", gate.path)
    child = sink.expect("began", "12")
    first.signal_all(signal.SIGSTOP)
    second = begin()
    second.await_line("waits: its key is held")
    assert len(effects(folder, "12")) == 1, "silence was taken for death"
    first.signal_all(signal.SIGCONT)  # its lease is over: it breaks the run off, which is a death that is seen
    await_exit(child)
    gate.open()
    assert future.result(timeout=30) == "charged 12"
    assert [line[2] for line in effects(folder, "12")] == [1, 2]


@pytest.mark.parametrize("subject", [charged.trapped, charged.refreshed])
def test_a_run_that_was_committed_and_not_told_is_not_executed_again(
    begin: Begin, sink: Sink, folder: Path, subject: Any
) -> None:
    (folder / "trap").touch()
    begin()
    future = subject.delay("13")
    assert future.result(timeout=30) == "charged 13"
    assert not (folder / "trap").exists(), "the process was to be killed"
    assert len(effects(folder, "13")) == 1


def test_many_runs_of_one_key_are_one_charge(begin: Begin, sink: Sink, folder: Path) -> None:
    for _ in range(2):
        begin(limit=2)
    futures = [charged.once.delay("14") for _ in range(100)]
    assert [future.result(timeout=60) for future in futures] == ["charged 14"] * 100
    assert len(effects(folder, "14")) == 1


def test_retries_go_through_the_queue_and_each_has_an_intent_of_its_own(begin: Begin, folder: Path) -> None:
    begin()
    assert charged.failing.delay("15").result(timeout=30) == "15"
    done = effects(folder, "15")
    assert [(line[2], line[3]) for line in done] == [(1, 1), (2, 2), (3, 3)]
    assert len({line[1] for line in done}) == 1


def ends(worker: Worker) -> None:
    """``worker`` is killed, and that was seen."""
    worker.kill()
    queue = backend.current().queue
    for session in queue.sessions():
        queue.expire_session(session.session, seen=True)


def test_a_run_that_is_cancelled_while_its_worker_dies_is_parked(
    begin: Begin, sink: Sink, gate: Gate, folder: Path
) -> None:
    """Nobody is left to say whether it happened, so a cancel does not say so either; a person can."""
    first = begin()
    future = charged.once.delay("16", gate.path)
    sink.expect("began", "16")
    first.signal_all(signal.SIGSTOP)
    runs, run_id = TaskRuns(backend.current()), ids.parse(future.task_run_id)
    assert runs.cancel(run_id) == "Running"
    ends(first)
    begin()
    parks(future)
    record = register_of("charged-once")
    assert record.holder is not None
    assert (record.state, record.holder.run_id) == (RegisterState.PARKED, run_id)
    cli("resolve", str(future.task_run_id), "--committed", '"charged by hand"')
    assert future.result(timeout=30) == "charged by hand"
    assert len(effects(folder, "16")) == 1


def test_a_run_that_is_cancelled_after_its_worker_died_is_parked(
    begin: Begin, sink: Sink, gate: Gate, folder: Path
) -> None:
    first = begin()
    future = charged.once.delay("18", gate.path)
    sink.expect("began", "18")
    ends(first)
    runs, run_id = TaskRuns(backend.current()), ids.parse(future.task_run_id)
    assert runs.cancel(run_id) == "Scheduled"
    begin()
    parks(future)
    assert register_of("charged-once").state is RegisterState.PARKED
    assert len(effects(folder, "18")) == 1


def test_a_run_that_is_cancelled_in_its_body_is_parked(begin: Begin, sink: Sink, gate: Gate, folder: Path) -> None:
    begin()
    future = charged.once.delay("19", gate.path)
    sink.expect("began", "19")
    assert TaskRuns(backend.current()).cancel(ids.parse(future.task_run_id), wait=20) == "Parked"
    parks(future)
    record = register_of("charged-once")
    assert (record.state, record.evidence["why"]) == (RegisterState.PARKED, "its code was broken off by CancelRun")
    assert len(effects(folder, "19")) == 1


def test_a_run_whose_process_died_too_often_is_parked(
    begin: Begin, sink: Sink, gate: Gate, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAPSTAN_MAX_CRASHES", "1")
    begin()
    future = charged.once.delay("20", gate.path)
    os.kill(sink.expect("began", "20"), signal.SIGKILL)
    parks(future)
    assert register_of("charged-once").evidence["cause"] == "killed by SIGKILL"
    assert len(effects(folder, "20")) == 1


def test_a_run_that_was_committed_and_is_cancelled_then_has_its_result(
    begin: Begin, sink: Sink, gate: Gate, folder: Path
) -> None:
    """Its process is killed between the register and the queue, and its worker hears of neither that nor the cancel."""
    (folder / "trap").touch()
    first = begin()
    future = charged.trapped.delay("21", gate.path)
    child = sink.expect("began", "21")
    first.signal(signal.SIGSTOP)
    gate.open()
    await_exit(child)
    assert TaskRuns(backend.current()).cancel(ids.parse(future.task_run_id)) == "Running"
    ends(first)
    begin()
    assert future.result(timeout=30) == "charged 21"
    assert not (folder / "trap").exists(), "the process was to be killed"
    assert len(effects(folder, "21")) == 1


@pytest.mark.parametrize("subject", [charged.once, charged.again], ids=["before it began", "another class"])
def test_a_run_of_which_nothing_is_in_doubt_is_just_cancelled(
    begin: Begin, sink: Sink, gate: Gate, subject: Any
) -> None:
    if subject is charged.again:
        begin()
    future = subject.delay("17", gate.path)
    if subject is charged.again:
        sink.expect("began", "17")
    assert TaskRuns(backend.current()).cancel(ids.parse(future.task_run_id), wait=20) == "Cancelled"
    assert future.state.message == ""
