"""SIGTERM and cancel: what runs ends well, what has not begun goes back, nothing runs twice."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests.integration.worker import served
from tests.integration.worker.conftest import Gate, Sink, Start

from kapstan import backend, ids
from kapstan.errors import CancelledRun


def test_sigterm_lets_runs_finish_and_nothing_runs_twice(start: Start, sink: Sink, gate: Gate) -> None:
    first = start(limit=2)
    held = [served.hold.delay(tag, gate.path) for tag in ("a", "b")]
    for _ in held:
        sink.next()
    rest = [served.mark.delay(f"m{n}") for n in range(100)]
    first.signal(signal.SIGTERM)
    first.await_line("Draining")
    start()
    for future in rest:  # the other worker takes them while the first one finishes
        future.result(timeout=20)
    gate.open()
    assert [future.result(timeout=20) for future in held] == ["a", "b"]
    assert first.wait() == 0
    events = [event[:2] for event in sink.events]
    assert sorted(events) == sorted({*events}), "something ran twice"


def test_an_idle_worker_drains_at_once(start: Start) -> None:
    worker = start(limit=3, env={"KAPSTAN_LEASE_SECONDS": "240", "KAPSTAN_BEAT_SECONDS": "60"})
    worker.signal(signal.SIGTERM)
    assert worker.wait(30) == 0  # and not when it looks after its lease the next time
    assert backend.current().queue.sessions() == []


def test_a_signal_for_all_its_processes_drains_it_at_once(start: Start) -> None:
    """As Ctrl-C, `timeout` and systemd send it. The word of the supervisor comes to children that hear the signal just
    then, and some did not hear it."""
    workers = [start(limit=8) for _ in range(3)]
    for future in [served.mark.delay(f"m{n}") for n in range(100)]:
        future.result(timeout=20)
    for pid in [pid for worker in workers for pid in (worker.pid, *worker.children())]:
        os.kill(pid, signal.SIGTERM)
    # Runs, of which there are none, may take 30 s.
    assert [worker.wait(25) for worker in workers] == [0, 0, 0]


def test_asked_through_the_queue_it_claims_nothing_more_and_stays(
    start: Start, sink: Sink, gate: Gate, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    worker = start(env={"KAPSTAN_SESSION": "pod-a"}, arguments=("--ready-file", str(ready), "--drain-seconds", "0.2"))
    assert ready.exists()
    future = served.hold.delay("t", gate.path)
    sink.expect("began", "t")
    assert len(backend.current().queue.drain_session("pod-a-")) == 1
    worker.await_line("Draining")
    assert not ready.exists()
    waits = served.mark.delay("waits")
    gate.open()
    assert future.result(timeout=20) == "t", "it is not broken off: nobody has ended the process"
    (session,) = backend.current().queue.sessions()
    assert (session.draining, session.claimed) == (True, 0)
    assert waits.state.name == "Scheduled"
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    # The container is started again in the same pod.
    again = start(env={"KAPSTAN_SESSION": "pod-a"}, arguments=("--ready-file", str(ready)))
    again.await_line("nothing more is claimed until this process is ended")
    assert not ready.exists()
    assert waits.state.name == "Scheduled"
    start(env={"KAPSTAN_SESSION": "pod-b"})
    assert waits.result(timeout=20) == "waits"
    assert sink.expect("ran", "waits") not in again.children()


@pytest.mark.parametrize("how", ["the time is over", "a second signal"])
def test_what_does_not_finish_in_time_goes_back_uncharged(start: Start, sink: Sink, gate: Gate, how: str) -> None:
    seconds = "0.3" if how == "the time is over" else "60"
    first = start(arguments=("--drain-seconds", seconds))
    future = served.hold.delay("t", gate.path)
    sink.expect("began", "t")
    first.signal(signal.SIGTERM)
    if how == "a second signal":
        first.await_line("Draining")
        first.signal(signal.SIGTERM)
    assert first.wait() == 75
    start()
    sink.expect("began", "t")
    gate.open()
    assert future.result(timeout=20) == "t"
    record = backend.current().queue.record(ids.parse(future.task_run_id))
    assert record is not None
    assert (record.attempt, record.crashes) == (1, 0)


def test_cancel_interrupts_a_running_run(start: Start, sink: Sink, gate: Gate) -> None:
    start()
    future = served.hold.delay("t", gate.path)
    pid = sink.expect("began", "t")
    assert backend.current().queue.cancel(ids.parse(future.task_run_id)) == "running"
    with pytest.raises(CancelledRun):
        future.result(timeout=10)
    served.mark.delay("next")
    assert sink.expect("ran", "next") == pid  # the same process goes on


def test_a_run_that_ignores_its_cancel_is_killed_and_not_repeated(start: Start, sink: Sink, gate: Gate) -> None:
    start()
    future = served.stubborn.delay("t", gate.path)
    pid = sink.expect("began", "t")
    backend.current().queue.cancel(ids.parse(future.task_run_id))
    sink.expect("ignored", "t")
    with pytest.raises(CancelledRun):
        future.result(timeout=20)
    served.mark.delay("next")
    assert sink.expect("ran", "next") != pid
    assert [event[:2] for event in sink.events].count(("began", "t")) == 1
