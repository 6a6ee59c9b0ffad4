"""Redis takes no writes, or does not answer, for longer than a lease: no worker ends, no run starts twice."""

from __future__ import annotations

import threading

import pytest
from tests.integration.worker import served
from tests.integration.worker.conftest import LEASE, Gate, Sink, Start
from tests.servers import trouble
from tests.servers.redis import RedisServer

from kapstan import backend, ids

ALL = {
    **{name: brought_about for name, (_, brought_about) in trouble.REFUSING.items()},
    "full": trouble.full,
    "stalled": trouble.stalled,
}


@pytest.mark.parametrize("name", sorted(ALL))
def test_it_passes_and_nobody_is_hurt(server: RedisServer, start: Start, sink: Sink, gate: Gate, name: str) -> None:
    workers = [start(limit=2), start(limit=2)]
    futures = [served.hold.delay(f"r{n}", gate.path) for n in range(3)]
    for _ in futures:
        assert sink.next()[0] == "began"
    before = [worker.children() for worker in workers]
    with ALL[name](server):
        if name not in ("full", "stalled"):
            trouble.await_refusal(server, True)
        threading.Event().wait(1.5 * LEASE)
        gate.open()  # they end while nothing can be told of it
        for _ in futures:
            assert sink.next()[0] == "ended"
    assert sorted(future.result(timeout=30) for future in futures) == ["r0", "r1", "r2"]
    assert sorted(what for what, _, _ in sink.events) == ["began"] * 3 + ["ended"] * 3
    assert [worker.children() for worker in workers] == before
    records = backend.current().queue.records([ids.parse(future.task_run_id) for future in futures])
    assert [(record.state, record.crashes, record.token.epoch) for record in records] == [("completed", 0, 1)] * 3
    assert served.add.delay(1, 2).result(timeout=30) == 3


def test_stalls_again_and_again_charge_nobody(server: RedisServer, start: Start, sink: Sink, gate: Gate) -> None:
    for _ in range(3):
        start()
    futures = [served.hold.delay(f"r{n}", gate.path) for n in range(2)]
    for _ in futures:
        assert sink.next()[0] == "began"
    for pause in (1.5 * LEASE, 0.9 * LEASE, 1.5 * LEASE, 1.2 * LEASE):
        with trouble.stalled(server):
            threading.Event().wait(pause)
        threading.Event().wait(LEASE / 2)
    gate.open()
    assert sorted(future.result(timeout=30) for future in futures) == ["r0", "r1"]
    assert len(sink.events) == 4
