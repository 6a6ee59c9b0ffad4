"""Processes of a worker die, hang or are stopped: nothing is lost, nothing of a neighbour is harmed."""

from __future__ import annotations

import os
import signal
import time

import pytest
from tests.integration.worker import served
from tests.integration.worker.conftest import LEASE, Gate, Sink, Start
from tests.servers.worker import await_exit

from kapstan import backend, ids
from kapstan.errors import CrashedRun


def test_a_killed_child_is_replaced_at_once_and_its_run_repeated(start: Start, sink: Sink, gate: Gate) -> None:
    start(limit=2, env={"KAPSTAN_LEASE_SECONDS": "60", "KAPSTAN_BEAT_SECONDS": "30"})
    lost = served.hold.delay("lost", gate.path)
    neighbour = served.hold.delay("neighbour", gate.path)
    victim = sink.expect("began", "lost")
    if ("began", "neighbour") not in [event[:2] for event in sink.events]:
        sink.expect("began", "neighbour")
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    again = sink.expect("began", "lost")
    recovered = time.monotonic() - killed
    assert again != victim
    assert recovered < 10.0, recovered  # 50 ms on an idle machine; a lease is 60 s
    gate.open()
    assert lost.result(timeout=20) == "lost"
    assert neighbour.result(timeout=20) == "neighbour"
    assert [event[:2] for event in sink.events].count(("began", "neighbour")) == 1
    record = backend.current().queue.record(ids.parse(lost.task_run_id))
    assert record is not None
    assert record.crashes == 1


def test_a_killed_worker_is_taken_over_within_a_lease_and_a_quarter(start: Start, sink: Sink, gate: Gate) -> None:
    first = start()
    future = served.hold.delay("t", gate.path)
    sink.expect("began", "t")
    start()
    killed = time.monotonic()
    first.kill()
    sink.expect("began", "t")
    took = time.monotonic() - killed
    assert took <= 1.25 * LEASE + 0.5, took
    gate.open()
    assert future.result(timeout=20) == "t"


def test_a_seen_death_is_taken_over_at_once(start: Start, sink: Sink, gate: Gate) -> None:
    first = start(env={"KAPSTAN_SESSION": "pod-a", "KAPSTAN_LEASE_SECONDS": "60"})
    future = served.hold.delay("t", gate.path)
    sink.expect("began", "t")
    start()
    first.kill()
    killed = time.monotonic()
    (ended,) = backend.current().queue.expire_session("pod-a-")
    assert ended.startswith("pod-a-")
    sink.expect("began", "t")
    assert time.monotonic() - killed <= 10.0  # of a lease of 60
    gate.open()
    assert future.result(timeout=20) == "t"


def test_no_child_outlives_its_supervisor(start: Start, sink: Sink, gate: Gate) -> None:
    worker = start(limit=3)
    served.seize.delay("busy", 20)
    served.hold.delay("t", gate.path)
    sink.expect("began", "t")
    children = worker.children()
    assert len(children) == 3
    worker.signal(signal.SIGKILL)
    worker.wait()
    for pid in children:  # one idle, one waits in a system call, one holds its interpreter
        await_exit(pid, 2.0)


def test_a_task_that_holds_the_interpreter_for_two_leases_keeps_its_lease(start: Start, sink: Sink) -> None:
    worker = start()
    start()  # would take the run over if the lease ended
    future = served.seize.delay("t", int(2 * LEASE))
    pid = sink.expect("began", "t")
    assert future.result(timeout=20) == pid
    assert [event for event in sink.events if event[0] == "began"] == [("began", "t", pid)]
    assert not any("LOST" in line for line in worker.output)


def test_what_waits_behind_a_task_that_holds_the_interpreter_is_given_back(start: Start, sink: Sink) -> None:
    """Its own guard cannot run; the supervisor sees the board."""
    for _ in range(400):  # short runs, so that the only lane claims many at a time
        served.noop.delay()
    blocker = served.seize.delay("t", 3)
    after = [served.mark.delay(f"after-{n}") for n in range(50)]
    start()
    sink.expect("began", "t")
    start()
    for future in after:
        future.result(timeout=20)
    assert not blocker.state.is_final()
    blocker.result(timeout=20)
    told = [tag for what, tag, _ in sink.events if what == "ran"]
    assert sorted(told) == sorted(f"after-{n}" for n in range(50))


def test_a_run_that_kills_its_worker_three_times_is_quarantined(start: Start, sink: Sink) -> None:
    worker = start(limit=2)
    poison = served.die.delay("poison")
    harmless = [served.add.delay(n, 1) for n in range(20)]
    with pytest.raises(CrashedRun, match="its process died 3 times"):
        poison.result(timeout=30)
    assert [future.result(timeout=20) for future in harmless] == [n + 1 for n in range(20)]
    assert [event[:2] for event in sink.events].count(("began", "poison")) == 3
    worker.await_line("is quarantined")
    assert served.add.delay(1, 1).result(timeout=20) == 2


def test_a_stopped_worker_that_comes_back_is_told_that_it_lost(start: Start, sink: Sink, gate: Gate) -> None:
    first = start()
    future = served.hold.delay("t", gate.path)
    old = sink.expect("began", "t")
    start()
    first.signal_all(signal.SIGSTOP)
    new = sink.expect("began", "t", timeout=3 * LEASE)
    assert new != old
    gate.open()
    sink.expect("ended", "t")
    assert future.result(timeout=20) == "t"
    first.signal_all(signal.SIGCONT)
    first.await_line("LOST: run")
    assert served.add.delay(1, 1).result(timeout=20) == 2
