"""Redis takes no writes, or does not answer, for longer than a lease: no worker ends, no run starts twice."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.integration.worker import served
from tests.integration.worker.conftest import LEASE, MODULE, Gate, Sink, Start
from tests.servers import trouble
from tests.servers.redis import RedisServer
from tests.servers.worker import Worker

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


def test_a_redis_that_loads_its_data_is_waited_for_by_everyone(
    server: RedisServer, start: Start, sink: Sink, gate: Gate
) -> None:
    """By who submits, waits, works, has nothing to do, is due to start again, and by a worker that starts meanwhile."""
    worker = start(limit=3)
    children = worker.children()
    held, due = served.hold.delay("held", gate.path), served.third_time.delay("due")
    assert {sink.next()[:2], sink.next()[:2]} == {("began", "held"), ("ran", "due")}
    with ThreadPoolExecutor(4) as threads:
        waiting = threads.submit(held.result, timeout=60)
        with trouble.loading(server):
            worker.await_line("LOADING")
            late = Worker(MODULE, limit=1)
            submitting = threads.submit(lambda: served.mark.delay("late").result(timeout=60))
            awaiting = threads.submit(lambda: asyncio.run(due.result_async(timeout=60)))
            late.await_line("LOADING")
            threading.Event().wait(1.2 * LEASE)
            gate.open()
            sink.expect("ended", "held")
            assert not [each for each in (waiting, submitting, awaiting) if each.done()]
        assert (waiting.result(60), submitting.result(60), awaiting.result(60)) == ("held", "late", 3)
    late.ready()
    counts = Counter(event[:2] for event in sink.events)
    assert counts == {("began", "held"): 1, ("ended", "held"): 1, ("ran", "due"): 3, ("ran", "late"): 1}
    records = backend.current().queue.records([ids.parse(each.task_run_id) for each in (held, due)])
    assert [(record.state, record.attempt, record.crashes) for record in records] == [
        ("completed", 1, 0),
        ("completed", 3, 0),
    ]
    assert worker.children() == children
    late.close()
