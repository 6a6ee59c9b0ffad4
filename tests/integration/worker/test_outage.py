"""Redis goes away under load and comes back; a worker without work leaves it alone."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from logging.handlers import QueueHandler

import pytest
from tests.integration.worker import served
from tests.integration.worker.conftest import BEAT, Gate, Sink, Start
from tests.servers.redis import RedisServer

from kapstan import backend

RUNS = 2000


def test_redis_killed_under_load_and_away_for_five_seconds(server: RedisServer, start: Start, sink: Sink) -> None:
    start(limit=2)
    futures = [served.work.delay(f"r{n}") for n in range(RUNS)]
    for _ in range(100):
        sink.next()
    server.kill()
    ran = len({tag for _, tag, _ in sink.events})
    assert ran < RUNS, "the fault came after the work"
    away = threading.Event()
    away.wait(5.0)
    server.start()
    for future in futures:
        future.result(timeout=60)
    counts = Counter(tag for _, tag, _ in sink.events)
    assert set(counts) == {f"r{n}" for n in range(RUNS)}


def test_an_outcome_waits_for_redis_however_long_it_is_away(
    server: RedisServer, start: Start, sink: Sink, gate: Gate
) -> None:
    worker = start(env={"KAPSTAN_REDIS_RETRY_SECONDS": "0.2"})
    future = served.hold.delay("t", gate.path)
    sink.expect("began", "t")
    server.kill()
    gate.open()
    sink.expect("ended", "t")
    worker.await_line("this lane keeps its outcomes")
    server.start()
    assert future.result(timeout=20) == "t"
    assert [what for what, _, _ in sink.events] == ["began", "ended"]


def test_an_idle_worker_sends_one_command_per_beat(server: RedisServer, start: Start, sink: Sink, gate: Gate) -> None:
    worker = start(limit=3)
    futures = [served.hold.delay(f"lane{n}", gate.path) for n in range(3)]
    assert len({sink.next()[2] for _ in futures}) == 3  # every lane is up
    gate.open()
    for future in futures:
        future.result(timeout=20)
    backend.use(None)  # this process' connections are not counted
    seconds = 8 * BEAT
    commands: list[str] = []
    with server.client() as client, client.monitor() as monitor:
        deadline = time.monotonic() + seconds
        threading.Timer(seconds + 1, lambda: server.client().echo("the end")).start()
        for command in monitor.listen():
            if "the end" in command["command"]:
                break
            if command["client_type"] != "lua" and time.monotonic() < deadline:
                commands.append(command["command"])
    assert 7 <= len(commands) <= 9, commands
    assert len(worker.children()) == 3


def test_submits_that_race_against_blocking_lose_no_wake_up(start: Start) -> None:
    """Each submit meets a lane that is just about to be idle."""
    start(limit=2)
    for n in range(1000):
        assert served.add.delay(n, 1).result(timeout=10) == n + 1


def test_a_callback_comes_however_long_redis_is_away(
    server: RedisServer, start: Start, sink: Sink, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = QueueHandler(lines)
    logger = logging.getLogger("kapstan.engine")
    logger.addHandler(handler)
    monkeypatch.setenv("KAPSTAN_REDIS_RETRY_SECONDS", "0.2")
    backend.use(None)
    start()
    future, ended = served.hold.delay("t", gate.path), threading.Event()
    future.add_done_callback(lambda _: ended.set())
    sink.expect("began", "t")
    server.kill()
    while "cannot be asked for, trying again" not in lines.get(timeout=30).getMessage():
        pass
    logger.removeHandler(handler)
    gate.open()
    server.start()
    assert ended.wait(30)
    assert future.result(timeout=20) == "t"
