"""What a worker does with runs when nothing goes wrong outside of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.integration.worker import served
from tests.integration.worker.conftest import Gate, Sink, Start
from tests.servers.redis import RedisServer
from tests.servers.worker import REPOSITORY, Worker

from kapstan import backend, ids
from kapstan.errors import CrashedRun, TaskTimeout


def test_runs_come_back_with_their_results(start: Start) -> None:
    start()
    assert served.add.delay(2, 3).result(timeout=20) == 5
    assert served.asynchronous.delay(2).result(timeout=20) == 3


def test_runs_submitted_before_any_worker_started_are_run(server: RedisServer, start: Start) -> None:
    futures = [served.add.delay(n, n) for n in range(300)]
    start(limit=2)
    assert [future.result(timeout=20) for future in futures] == [2 * n for n in range(300)]


def test_it_says_what_it_serves_and_names_its_session(start: Start) -> None:
    worker = start(env={"KAPSTAN_SESSION": "pod-uid", "KAPSTAN_WORKER_NAME": "charges"})
    assert "tests.integration.worker.served:add" in worker.await_line("Serving ")
    (session,) = backend.current().queue.sessions()
    assert session.session.startswith("pod-uid-")
    assert session.worker == "charges"
    assert session.lanes == 1


def test_at_debug_each_run_has_a_line(start: Start) -> None:
    worker = start(env={"KAPSTAN_LOG_LEVEL": "DEBUG"})
    done, failed = served.add.delay(1, 1), served.too_long.delay()
    identity = "tests.integration.worker.served"
    line = f"Run {ids.parse(str(done.task_run_id))} of {identity}:add: completed after 0."
    assert line in worker.await_line(":add: completed after")
    assert f"Run {ids.parse(str(failed.task_run_id))}" in worker.await_line(":too_long: failed after")


def test_a_retry_waits_without_a_slot_and_counts_attempts(start: Start, sink: Sink) -> None:
    start()
    began = time.monotonic()
    future = served.third_time.delay("t")
    sink.expect("ran", "t")
    assert served.add.delay(1, 1).result(timeout=20) == 2  # the only lane is free while the retry waits
    assert [event[:2] for event in sink.events] == [("ran", "t")]
    assert future.result(timeout=20) == 3
    assert time.monotonic() - began >= 1.0


def test_a_run_that_takes_too_long_fails_and_the_lane_goes_on(start: Start) -> None:
    start()
    future = served.too_long.delay()
    with pytest.raises(TaskTimeout, match=r"timeout_seconds=0\.2"):
        future.result(timeout=20)
    assert served.add.delay(1, 1).result(timeout=20) == 2


def test_a_delayed_run_starts_when_it_is_due(start: Start, sink: Sink) -> None:
    start(env={"KAPSTAN_LEASE_SECONDS": "240", "KAPSTAN_BEAT_SECONDS": "60"})  # not when its worker renews its lease
    began = time.monotonic()
    served.mark.apply_async(("later",), countdown=0.7)
    sink.expect("ran", "later", timeout=30)
    assert time.monotonic() - began >= 0.65


def test_head_of_line(start: Start, sink: Sink, gate: Gate) -> None:
    """20 × 100 ms among 3,200 no-ops on two workers take 1 s: nothing waits behind something long."""
    start()
    start()
    for lane in ("one", "other"):
        served.hold.delay(lane, gate.path)
        sink.expect("began", lane)
    before = [served.noop.delay() for _ in range(3000)]
    slow = [served.nap.delay(0.1) for _ in range(20)]
    late = [served.noop.delay() for _ in range(200)]
    began = time.monotonic()
    gate.open()
    for future in (before[-1], late[-1], *slow):
        future.result(timeout=30)
    took = time.monotonic() - began
    assert took < 1.7, took  # hoarding takes 2 s or more; the bench holds the ratio


def test_a_file_serves_what_another_module_submits(start: Start, server: RedisServer, tmp_path: Path) -> None:
    """`python tasks.py` calls serve(); a web app imports the same file as module `tasks`."""
    (tmp_path / "tasks.py").write_text(
        "from kapstan import task, serve\n"
        "@task\ndef double(n): return 2 * n\n"
        "if __name__ == '__main__': serve(double, limit=1)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "operator")}
    worker = subprocess.Popen([sys.executable, "tasks.py"], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert worker.stdout is not None
        assert "tasks:double" in worker.stdout.readline()
        app = "import tasks; print(tasks.double.delay(21).result(timeout=20))"
        said = subprocess.run([sys.executable, "-c", app], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert said.stdout == "42\n", said.stderr
    finally:
        worker.terminate()
        assert worker.wait(20) == 0
        assert worker.stdout is not None
        worker.stdout.close()


def test_exiting_a_task_is_a_crash_of_that_run_and_of_nothing_else(start: Start) -> None:
    start()
    with pytest.raises(CrashedRun, match="SystemExit: 3"):
        served.leave.delay().result(timeout=30)
    assert served.add.delay(1, 1).result(timeout=20) == 2


@pytest.mark.parametrize(
    ("entrypoint", "reason"),
    [
        ("tests.integration.worker.served:no_such", "no_such is no task of"),
        ("tests/no_such_file.py:add", "there is no file 'tests/no_such_file.py'"),
        ("served", "give module:task or file.py:task"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(server: RedisServer, entrypoint: str, reason: str) -> None:
    worker = Worker("", arguments=(entrypoint,))
    try:
        worker.await_line(reason)
        assert worker.wait() == 2
    finally:
        worker.close()
