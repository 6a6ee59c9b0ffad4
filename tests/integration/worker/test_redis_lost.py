"""Redis is lost under real workers: runs of durability ``store`` that executed then, or did not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.integration.keyed.charging import effects
from tests.integration.worker import charged, served
from tests.integration.worker.conftest import Gate, Sink, Start
from tests.servers.redis import RedisServer
from tests.servers.worker import Worker

from kapstan import backend, ids
from kapstan.cli.queue import command
from kapstan.cli.task_run import command as task_run
from kapstan.errors import CancelledRun, ParkedRun
from kapstan.runs import ends


@pytest.fixture
def charges(server: RedisServer, sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Worker]]:
    """Workers that charge; gone after the test."""
    monkeypatch.setenv("EFFECTS", str(tmp_path))
    workers: list[Worker] = []
    yield workers
    for worker in workers:
        worker.close()


def charging(workers: list[Worker]) -> Worker:
    workers.append(Worker("tests.integration.worker.charged"))
    return workers[-1].ready()


def lose(server: RedisServer) -> None:
    with server.client() as client:
        client.flushall()
    backend.use(None)  # this process goes on as another would


def rebuild() -> str:
    answer = CliRunner().invoke(command, ["rebuild", "--yes"])
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def test_a_charge_that_was_under_way_is_parked_and_a_person_decides(
    server: RedisServer, charges: list[Worker], sink: Sink, gate: Gate, tmp_path: Path
) -> None:
    worker = charging(charges)
    future = charged.once.apply_async(("7", gate.path), durability="store")
    sink.expect("began", "7")
    worker.kill()
    lose(server)
    assert "charged-once" in rebuild()
    charging(charges)
    with pytest.raises(ParkedRun):
        future.result(timeout=30)
    lose(server)
    rebuild()
    with pytest.raises(ParkedRun):
        future.result(timeout=30)
    run = str(future.task_run_id)
    decided = CliRunner().invoke(task_run, ["resolve", run, "--committed", '"charged 7"'])
    assert decided.exit_code == 0, decided.output
    assert future.result(timeout=30) == "charged 7"
    assert [line[0] for line in effects(tmp_path)] == ["7"]


def test_a_worker_that_goes_on_over_the_loss_executes_its_run_once(
    server: RedisServer, start: Start, sink: Sink, gate: Gate
) -> None:
    start()
    held = served.hold.apply_async(("held", gate.path), durability="store")
    sink.expect("began", "held")
    waiting = served.mark.apply_async(("waiting",), durability="store")
    lost = served.mark.delay("lost")
    lose(server)
    rebuild()
    gate.open()
    assert (held.result(timeout=60), waiting.result(timeout=60)) == ("held", "waiting")
    events = [event[:2] for event in sink.events]
    assert [events.count(each) for each in (("began", "held"), ("ran", "waiting"), ("ran", "lost"))] == [1, 1, 0]
    assert lost.state.name == "Pending", "the queue does not know it"


def test_a_cancel_is_noted_by_the_worker_that_it_interrupts(
    server: RedisServer, start: Start, sink: Sink, gate: Gate
) -> None:
    start()
    future = served.hold.apply_async(("a", gate.path), durability="store")
    run_id = ids.parse(future.task_run_id)
    sink.expect("began", "a")
    backend.current().queue.cancel(run_id)
    with pytest.raises(CancelledRun):
        future.result(timeout=30)
    noted = ends.read(backend.current(), run_id)
    assert noted is not None
    assert noted.state == "cancelled"


def test_a_worker_that_is_killed_between_the_note_and_the_queue(
    server: RedisServer, start: Start, sink: Sink, gate: Gate
) -> None:
    """Redis is down, so the worker comes to the note and no further."""
    worker = start()
    future = served.hold.apply_async(("a", gate.path), durability="store")
    run_id = ids.parse(future.task_run_id)
    sink.expect("began", "a")
    server.kill()
    gate.open()
    while ends.read(backend.current(), run_id) is None:
        continue
    worker.kill()
    server.start()
    assert future.state.name == "Running", "the fault did not bite"
    start()
    assert future.result(timeout=60) == "a"
    assert [event[:2] for event in sink.events].count(("began", "a")) == 1
