"""Another program writes to the keys and channels of a worker's namespace. No child of it dies, no other run is lost,
and each record that cannot be read is a crashed run that says so, with one line in the worker's log."""

from __future__ import annotations

import json
import time

from click.testing import CliRunner
from tests.integration.worker import served
from tests.integration.worker.conftest import Start
from tests.servers.redis import RedisServer

from kapstan import backend
from kapstan.cli import cli
from kapstan.futures import Future
from kapstan.ids import new_id, parse

SPOILT = (b"", b"\xff\xfe\x00\x80", b"1q", b"2q" + b"0" * 60, b"A" * 1_000_000, None)
"""What is written over the records of runs that wait; None: a list."""


def run_of(future: Future[int]) -> str:
    return parse(str(future.task_run_id))


def test_a_worker_lives_on_and_says_what_it_found(server: RedisServer, start: Start) -> None:
    worker = start(2)
    assert served.add.delay(1, 1).result(timeout=30) == 2  # it serves
    prefix, children = backend.current().queue.prefix, worker.children()
    backend.current().queue.pause(served.add.spec.identity)
    futures = [served.add.delay(number, 1) for number in range(2 * len(SPOILT))]
    with server.client() as client:
        for future, text in zip(futures[::2], SPOILT, strict=True):
            key = f"{prefix}t:{run_of(future)}"
            if text is None:
                client.delete(key)
                client.rpush(key, "junk")
            else:
                client.set(key, text)
        route = f"{prefix}q:{served.add.spec.identity}"
        for entry in (b"", b"\xff" * 22, b"junk", new_id(), b"x" * 100_000):
            client.lpush(route, entry)
        backend.current().queue.resume(served.add.spec.identity)
        assert [future.result(timeout=30) for future in futures[1::2]] == [n + 1 for n in range(1, len(futures), 2)]
        for future in futures[::2]:
            future.wait(timeout=30)
            assert future.state.is_crashed()
            assert "its record in Redis cannot be read" in future.state.message
        for channel in client.pubsub_channels(f"{prefix}*"):
            for message in (b"", b"c", b"c" + b"\xff" * 80, b"c" + new_id().encode() + b"x" * 90, b"junk"):
                client.publish(channel, message)
        assert served.add.delay(5, 5).result(timeout=30) == 10
    listed = json.loads(CliRunner().invoke(cli, ("task-run", "ls", "--state", "crashed", "-o", "json")).stdout)
    assert {run["id"] for run in listed} == {str(future.task_run_id) for future in futures[::2]}
    assert all("its record in Redis cannot be read" in run["why"] for run in listed)
    assert worker.children() == children, "a child died"
    for future in futures[::2]:
        lines = [line for line in worker.output if run_of(future) in line]
        assert len(lines) == 1, lines


def test_what_stood_there_is_kept_for_a_person(server: RedisServer, start: Start) -> None:
    waiting = served.add.delay(1, 1)
    key = f"{backend.current().queue.prefix}t:{run_of(waiting)}"
    with server.client() as client:
        client.set(key, b"2q another release")
        start()
        deadline = time.monotonic() + 30
        while not client.ttl(key) > 0:
            assert time.monotonic() < deadline, "the crashed run stays for ever"
        kept = key.replace("}:t:", "}:bad:")
        assert client.get(kept) == b"2q another release"
        assert 0 < client.ttl(kept) <= 8 * 86400
    assert isinstance(waiting.state.result(raise_on_failure=False), Exception)
