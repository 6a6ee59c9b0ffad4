"""What a run has started ends with it, however far it went, when the run is killed, cancelled, timed out or fenced; it
is no zombie afterwards, and what it inherits from the worker does no harm."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.integration.worker import served
from tests.integration.worker.conftest import Gate, Sink, Start
from tests.servers.redis import RedisServer
from tests.servers.worker import Worker, await_exit

from kapstan import backend, ids
from kapstan.engine import submission
from kapstan.errors import CancelledRun, CrashedRun, TaskTimeout
from kapstan.states import EffectClass

WAYS = ["program", "session", "fork", "daemon"]


def begun(sink: Sink, *events: tuple[str, str]) -> dict[tuple[str, str], int]:
    """Read events until all of ``events`` have come; their pids."""
    pids: dict[tuple[str, str], int] = {}
    while not pids.keys() >= {*events}:
        what, tag, pid = sink.next()
        pids[what, tag] = pid
    return pids


def zombies(worker: Worker) -> list[int]:
    return [pid for pid in worker.children() if state_of(pid) == "Z"]


def state_of(pid: int) -> str:
    """The letter of a process' state, "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("how", WAYS)
def test_helpers_of_a_killed_child_end_and_a_neighbours_go_on(start: Start, sink: Sink, gate: Gate, how: str) -> None:
    worker = start(limit=2, env={"KAPSTAN_MAX_CRASHES": "1"})
    neighbour = served.helped.delay("neighbour", gate.path, how)
    theirs = begun(sink, ("began", "neighbour"), ("helps", "neighbour"))
    victim = served.helped.delay("victim", gate.path, how)
    pids = begun(sink, ("began", "victim"), ("helps", "victim"))
    os.kill(pids["began", "victim"], signal.SIGKILL)
    with pytest.raises(CrashedRun):
        victim.result(timeout=20)
    await_exit(pids["helps", "victim"])
    assert lives(theirs["helps", "neighbour"])
    gate.open()
    neighbour.result(timeout=20)
    sink.expect("effect", "neighbour")
    assert ("effect", "victim") not in [event[:2] for event in sink.events]
    assert worker.serving
    assert served.add.delay(1, 1).result(timeout=20) == 2


@pytest.mark.parametrize(
    ("why", "how"), [*(("cancelled", how) for how in WAYS), ("timed out", "program"), ("timed out", "daemon")]
)
def test_helpers_of_a_run_that_is_broken_off_end(start: Start, sink: Sink, gate: Gate, how: str, why: str) -> None:
    worker = start(limit=1)
    task = served.helped if why == "cancelled" else served.helped_for_three_seconds
    future = task.delay("t", gate.path, how)
    pids = begun(sink, ("began", "t"), ("helps", "t"))
    if why == "cancelled":
        backend.current().queue.cancel(ids.parse(future.task_run_id))
    with pytest.raises(CancelledRun if why == "cancelled" else TaskTimeout):
        future.result(timeout=20)
    await_exit(pids["helps", "t"])
    gate.open()
    served.mark.delay("next").result(timeout=20)
    assert ("effect", "t") not in [event[:2] for event in sink.events]
    worker.await_line("this executor is replaced")
    record = backend.current().queue.record(ids.parse(future.task_run_id))
    assert record is not None
    assert record.crashes == 0


def test_helpers_of_a_fenced_run_end(server: RedisServer, start: Start, sink: Sink, gate: Gate) -> None:
    worker = start(limit=1)
    spec = replace(served.helped.spec, effect=EffectClass.IDEMPOTENT)
    submission.submit(spec, ("t", gate.path, "session"), {})
    pids = begun(sink, ("began", "t"), ("helps", "t"))
    server.pause()
    await_exit(pids["helps", "t"])
    assert any("is broken off: the lease may end" in line for line in worker.output)
    server.resume()


@pytest.mark.parametrize("how", WAYS)
def test_what_a_run_that_ended_well_leaves_behind_goes_on_and_is_buried(
    start: Start, sink: Sink, gate: Gate, how: str
) -> None:
    worker = start(limit=1)
    executor = served.leaves_a_helper.delay("t", gate.path, how).result(timeout=20)
    helper = begun(sink, ("helps", "t"))["helps", "t"]
    assert served.leaves_a_helper.delay("u", gate.path, how).result(timeout=20) == executor, "it goes on, too"
    assert lives(helper)
    gate.open()
    sink.expect("effect", "t")
    if how == "daemon":  # of the others the executor is the parent
        await_exit(helper)
    served.mark.delay("next").result(timeout=20)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_no_zombies_stay_with_the_supervisor(start: Start, sink: Sink, gate: Gate) -> None:
    worker = start(limit=1)
    gate.open()
    for n in range(5):
        served.leaves_a_helper.delay(f"t{n}", gate.path, "daemon").result(timeout=20)
        helper = begun(sink, ("effect", f"t{n}"))["effect", f"t{n}"]
        await_exit(helper)
    deadline = time.monotonic() + 10
    while zombies(worker) and time.monotonic() < deadline:  # it is told of each, and looks
        time.sleep(0.01)
    assert zombies(worker) == []


def test_a_fork_of_a_run_can_be_terminated(start: Start) -> None:
    start(limit=1)
    assert served.terminates_a_fork.delay().result(timeout=30) == -signal.SIGTERM


def test_an_alarm_of_a_run_is_its_own(start: Start, sink: Sink, gate: Gate) -> None:
    """It ends its process, as in Python; the sibling, whose run has an effect, is not touched."""
    start(limit=2, env={"KAPSTAN_MAX_CRASHES": "1"})
    spec = replace(served.hold.spec, effect=EffectClass.IDEMPOTENT)
    sibling = submission.submit(spec, ("sibling", gate.path), {})
    sink.expect("began", "sibling")
    # The sibling must have been forked first, so that the other has inherited its pid: have both replaced once.
    with pytest.raises(CrashedRun):
        served.rings_its_alarm.delay().result(timeout=20)
    with pytest.raises(CrashedRun):
        served.rings_its_alarm.delay().result(timeout=20)
    gate.open()
    assert backend.current().queue.wait([sibling], 20) == {sibling}
    record = backend.current().queue.record(sibling)
    assert record is not None
    assert (record.state, record.crashes) == ("completed", 0)
    assert [event[:2] for event in sink.events].count(("began", "sibling")) == 1


@pytest.mark.parametrize("how", [served.comes_back_from_a_fork, served.comes_back_from_a_fork_async])
def test_a_fork_that_comes_back_into_a_task_ends_with_one_line(start: Start, sink: Sink, how: Any) -> None:
    worker = start()
    for then, code, said in (
        ("returns", 0, "came back"),
        ("raises", 1, "with KeyError"),
        ("calls", 1, "called task add"),
    ):
        assert how.delay(then).result(timeout=20) == str(code)
        assert said in worker.await_line("A process that the code of a run has forked")
        worker.output.clear()
    assert served.add.delay(1, 2).result(timeout=20) == 3
