"""Locks that runs hold: their lease is not the run's own affair, and a killed executor holds nothing."""

from __future__ import annotations

import os
import signal
import time

import pytest
from tests.integration.worker import served
from tests.integration.worker.conftest import LEASE, Gate, Sink, Start

from kapstan import backend
from kapstan.errors import CrashedRun
from kapstan.locking import RedisLockManager


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process does not watch the workers' processes, as if they were of another machine."""
    monkeypatch.setattr("kapstan.locks.processes._machine", str)


def test_a_run_holds_its_lock_longer_than_a_lease(start: Start, sink: Sink, gate: Gate) -> None:
    start(limit=1)
    run = served.locked.delay("a", "k", gate.path)
    sink.expect("holds", "a")
    assert not RedisLockManager().acquire_lock("k", "test", 2.5 * LEASE)
    gate.open()
    assert RedisLockManager().acquire_lock("k", "test", 10)
    assert RedisLockManager().guard_lock("k", "test") > run.result()


def test_a_killed_executor_frees_its_lock_at_once(
    start: Start, sink: Sink, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAPSTAN_LEASE_SECONDS", "30")
    backend.use(None)
    start(limit=1, env={"KAPSTAN_MAX_CRASHES": "1"})
    run = served.locked.delay("a", "k", gate.path)
    pid = sink.expect("holds", "a")
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    assert RedisLockManager().acquire_lock("k", "test", 60)
    assert time.monotonic() - began < 15  # by the child's keeper, which is not killed with what the run started
    with pytest.raises(CrashedRun):
        run.result()


def test_a_worker_that_is_killed_whole_frees_it_too(start: Start, sink: Sink, gate: Gate) -> None:
    worker = start(limit=1)
    served.locked.delay("a", "k", gate.path)
    sink.expect("holds", "a")
    worker.kill()
    assert RedisLockManager().acquire_lock("k", "test", 10)


def test_runs_of_one_key_wait_for_each_other(start: Start, sink: Sink, gate: Gate) -> None:
    start(limit=2)
    runs = [served.locked.delay(f"r{number}", "k", gate.path) for number in range(6)]
    sink.next()
    gate.open()
    tokens = [run.result() for run in runs]
    assert len({*tokens}) == 6
    assert not RedisLockManager().is_locked("k")
