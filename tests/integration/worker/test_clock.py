"""The clock of Redis' machine is set while everything runs: no worker ends, no run starts twice or early."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.worker import served
from tests.integration.worker.conftest import LEASE, Gate, Sink, Start, used
from tests.servers import clock as clocks
from tests.servers.clock import Clock
from tests.servers.redis import RedisServer

from kapstan import backend, ids

HOUR = 3600.0


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


@pytest.fixture
def server(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    with used(clocks.served(tmp_path / "redis", clock), monkeypatch) as redis:
        yield redis


@pytest.mark.parametrize("steps", [(HOUR, 0.0), (-HOUR, 0.0)], ids=str)
def test_it_is_set_and_nobody_is_hurt(
    server: RedisServer, clock: Clock, start: Start, sink: Sink, gate: Gate, steps: tuple[float, ...]
) -> None:
    workers = [start(limit=2), start(limit=2)]
    futures = [served.hold.delay(f"r{n}", gate.path) for n in range(3)]
    for _ in futures:
        assert sink.next()[0] == "began"
    before = [worker.children() for worker in workers]
    due = served.mark.apply_async(("due",), countdown=2 * LEASE)
    for step in steps:
        clock.set_to(step)
        assert abs(clocks.ahead(server) - step) < 2.0
        threading.Event().wait(1.2 * LEASE)
    assert served.add.delay(1, 2).result(timeout=30) == 3
    assert due.result(timeout=30) == "due"
    gate.open()
    assert sorted(future.result(timeout=30) for future in futures) == ["r0", "r1", "r2"]
    assert sorted(what for what, _, _ in sink.events) == ["began"] * 3 + ["ended"] * 3 + ["ran"]
    assert [worker.children() for worker in workers] == before
    records = backend.current().queue.records([ids.parse(future.task_run_id) for future in futures])
    assert [(record.state, record.crashes, record.token.epoch) for record in records] == [("completed", 0, 1)] * 3
