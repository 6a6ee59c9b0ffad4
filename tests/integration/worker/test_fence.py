"""A worker that the queue no longer hears breaks off what has effects, before others can be given it."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.worker import served
from tests.integration.worker.conftest import LEASE, Gate, Sink, Start
from tests.servers.redis import RedisServer
from tests.servers.tcp_relay import TcpRelay
from tests.servers.worker import Worker, await_exit

from kapstan import backend
from kapstan.engine import submission
from kapstan.ids import RunId
from kapstan.ports import RunRecord

BROKEN_OFF = "is broken off: the lease may end"


def hold(tag: str, gate: Gate, effect: str) -> RunId:
    """As ``served.hold.delay``, in a class that the decorator cannot name yet."""
    return submission.submit(replace(served.hold.spec, effect=effect), (tag, gate.path), {})


def ended(run_id: RunId) -> RunRecord:
    queue = backend.current().queue
    assert queue.wait([run_id], 20) == {run_id}
    record = queue.record(run_id)
    assert record is not None
    return record


def both_begin(sink: Sink, *tags: str) -> dict[str, int]:
    """Read events until runs of all ``tags`` have begun; the pids in which, by tag."""
    pids: dict[str, int] = {}
    while not pids.keys() >= {*tags}:
        what, tag, pid = sink.next()
        if what == "began":
            pids[tag] = pid
    return pids


def broken_off(worker: Worker) -> list[str]:
    return [line for line in worker.output if BROKEN_OFF in line]


class Process:
    """A process that is asked whether it lives; its number cannot be given to another meanwhile."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    @property
    def lives(self) -> bool:
        return not select.select([self._handle], [], [], 0)[0]


@contextmanager
def watched(pid: int) -> Iterator[Process]:
    handle = os.pidfd_open(pid)
    try:
        yield Process(handle)
    finally:
        os.close(handle)


def test_who_is_cut_off_has_broken_off_effects_when_another_begins_them(
    server: RedisServer, start: Start, sink: Sink, gate: Gate, tmp_path: Path
) -> None:
    with TcpRelay(server.port) as relay:
        cut_off = start(limit=2, env={"KAPSTAN_REDIS_URL": f"redis://127.0.0.1:{relay.port}/0"})
        pure, effect = hold("pure", gate, "p"), hold("effect", gate, "a")
        first = both_begin(sink, "pure", "effect")
        other = start(limit=2)
        with watched(first["pure"]) as pure_process, watched(first["effect"]) as effect_process:
            relay.silent()
            sink.expect("began", "effect")
            assert not effect_process.lives, "two processes execute a run with effects"
            if [event[:2] for event in sink.events].count(("began", "pure")) < 2:
                sink.expect("began", "pure")
            assert pure_process.lives, "the fault did not bite: nothing is executed that another was given"
        assert relay.held.is_set()
        gate.open()
        assert [ended(run_id).state for run_id in (pure, effect)] == ["completed", "completed"]
        relay.flow()
        cut_off.await_line(f"LOST: run {pure}")
        (line,) = broken_off(cut_off)
        assert effect in line
        other.kill()
        later = Gate(tmp_path / "later")
        again = [hold(tag, later, "a") for tag in ("x", "y")]
        both_begin(sink, "x", "y")  # both lanes serve again
        later.open()
        assert [ended(run_id).state for run_id in again] == ["completed", "completed"]
        later.close()


@pytest.mark.parametrize("effect", ["i", "a", "t"])
def test_when_redis_is_silent_effects_end_within_the_lease_and_pure_runs_go_on(
    server: RedisServer, start: Start, sink: Sink, gate: Gate, tmp_path: Path, effect: str
) -> None:
    worker = start(limit=2)
    pure_gate = Gate(tmp_path / "pure")
    pure_run, effect_run = hold("pure", pure_gate, "p"), hold("effect", gate, effect)
    first = both_begin(sink, "pure", "effect")
    with watched(first["pure"]) as pure:
        lease_ends = renewed(server)
        server.pause()
        await_exit(first["effect"])
        died = time.time()
        assert lease_ends - LEASE / 2 < died < lease_ends, (died, lease_ends)
        assert pure.lives
        pure_gate.open()
        assert sink.expect("ended", "pure") == first["pure"]
        server.resume()
    assert sink.expect("began", "effect") != first["effect"]
    gate.open()
    records = [ended(run_id) for run_id in (pure_run, effect_run)]
    assert [(record.state, record.crashes) for record in records] == [("completed", 0), ("completed", 0)]
    assert [event[:2] for event in sink.events].count(("began", "pure")) == 1
    assert len(broken_off(worker)) == 1
    pure_gate.close()


def renewed(server: RedisServer) -> float:
    """When the worker's lease ends, which has been prolonged just now, and was told so."""
    with server.client() as client:

        def end() -> float:
            (name,) = client.zrange("{default}:s", 0, -1)
            return int(client.hget(f"{{default}}:w:{name.decode()}", "=")) / 1000 + LEASE

        before = end()
        deadline = time.monotonic() + 10
        while (now := end()) == before:
            assert time.monotonic() < deadline, "no renewal"
        client.ping()  # Redis sends what it owes before it reads further: the answer to the renewal is on its way
        return now
