"""Signals at odd moments: nothing is lost, charged or doubled."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter

import pytest
from tests.integration.worker import served
from tests.integration.worker.conftest import MODULE, Gate, Sink, Start
from tests.servers.redis import RedisServer
from tests.servers.worker import Worker

from kapstan import backend, ids


def charged(task_run_id: object) -> tuple[int, int]:
    """Attempt and crashes of a run."""
    record = backend.current().queue.record(ids.parse(str(task_run_id)))
    assert record is not None
    return record.attempt, record.crashes


@pytest.mark.parametrize("pause", [0.0, 0.1, 0.3, 0.6])
def test_sigterm_while_it_starts(server: RedisServer, sink: Sink, pause: float) -> None:
    """Whatever it is doing: forking, loading, opening its session, parking its lanes."""
    run = served.mark.delay("t")
    worker = Worker(MODULE, limit=4)
    try:
        threading.Event().wait(pause)
        worker.signal(signal.SIGTERM)
        assert worker.wait() in (0, -signal.SIGTERM)  # by Python's own handler, before ours stands
        assert worker.children() == []
    finally:
        worker.close()
    second = Worker(MODULE, limit=4)
    try:
        assert run.result(timeout=20) == "t"
        assert charged(run.task_run_id) == (1, 0)
        assert [event[:2] for event in sink.events].count(("ran", "t")) == 1
    finally:
        second.close()


def test_a_worker_that_starts_while_redis_is_down_waits_for_it(server: RedisServer, sink: Sink) -> None:
    run = served.mark.delay("t")
    server.kill()
    stopped = Worker(MODULE)
    given_up = Worker(MODULE, env={"KAPSTAN_REDIS_RETRY_SECONDS": "0.1"})
    waits = Worker(MODULE)
    try:
        for worker in (stopped, waits):
            worker.await_line("This worker cannot begin yet: Redis at")
        stopped.signal(signal.SIGTERM)
        assert stopped.wait() == 0
        assert given_up.wait() not in (0, 75)
        given_up.await_line("did not answer for 0.1 s (KAPSTAN_REDIS_RETRY_SECONDS)")
        server.start()
        assert run.result(timeout=20) == "t"
        assert charged(run.task_run_id) == (1, 0)
    finally:
        for worker in (stopped, given_up, waits):
            worker.close()


def test_two_sigterms_while_redis_is_down(server: RedisServer, start: Start, sink: Sink, gate: Gate) -> None:
    worker = start(limit=4)
    held = [served.hold.delay(f"h{n}", gate.path) for n in range(4)]
    for _ in held:
        sink.next()
    server.kill()
    worker.await_line("The lease is not renewed")
    worker.signal(signal.SIGTERM)
    worker.await_line("Draining: runs have")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 75
    server.start()
    start(limit=4)
    gate.open()
    assert [future.result(timeout=30) for future in held] == [f"h{n}" for n in range(4)]


def test_kills_and_stops_of_children_under_load(start: Start, sink: Sink) -> None:
    """One child after the other is killed, or stopped for a moment, while four lanes work through short runs."""
    worker = start(limit=4, env={"KAPSTAN_MAX_CRASHES": "9"})
    futures = [served.work.delay(f"r{n}") for n in range(1500)]
    killed = 0
    for n in range(12):
        for _ in range(40):
            sink.next()
        children = worker.children()
        if not children:
            continue
        victim = children[n % len(children)]
        try:
            if n % 3 == 2:
                os.kill(victim, signal.SIGSTOP)
                os.kill(victim, signal.SIGCONT)
            else:
                os.kill(victim, signal.SIGKILL)
                killed += 1
        except ProcessLookupError:
            continue
    assert killed > 4, "the fault must bite"
    assert [future.result(timeout=60) for future in futures] == [f"r{n}" for n in range(1500)]
    again = sum(count - 1 for count in Counter(tag for _, tag, _ in sink.events).values())
    assert again <= 130 * killed, "what was handed in is not run again"
    assert len(worker.children()) == 4
