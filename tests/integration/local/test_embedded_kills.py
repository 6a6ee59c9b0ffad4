"""The embedded server is killed in the middle of its work, again and again: what it acknowledged is there."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kapstan.ids import RunId, new_id, new_ids
from kapstan.ports import Submission
from kapstan.queue import server
from kapstan.queue.redis import RedisQueue
from kapstan.queue.wire import pack
from kapstan.settings import Settings

SUBMITTERS = 3
BETWEEN = 150  # acknowledged submits from one kill to the next


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[list[Path]]:
    homes = [tmp_path / f"home-{number}" for number in range(5)]
    yield homes
    for home in homes:
        server.stop(home)


def opened(home: Path, *, fsync: bool = False) -> RedisQueue:
    return RedisQueue(Settings(home=str(home), fsync=fsync), None)  # pyright: ignore[reportArgumentType]  (mints nothing)


def process(queue: RedisQueue) -> int:
    return int(queue.command(pack("INFO", "server")).decode().split("process_id:")[1].split()[0])


def policy(queue: RedisQueue) -> bytes:
    return queue.command(pack("CONFIG", "GET", "appendfsync"))[b"appendfsync"]


def submit(queue: RedisQueue, run_id: RunId) -> None:
    queue.submit(Submission(run_id, "t", b"x" * 200, "fingerprint"))


def lost(queue: RedisQueue, acknowledged: Sequence[RunId]) -> list[RunId]:
    there: list[object] = []
    for at in range(0, len(acknowledged), 500):
        there += queue.records(acknowledged[at : at + 500])
    return [run_id for run_id, record in zip(acknowledged, there, strict=True) if record is None]


class Load:
    """Threads that submit without pause and note what was acknowledged."""

    def __init__(self, home: Path) -> None:
        self.acknowledged: list[RunId] = []
        self._home = home
        self._more = threading.Condition()
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._submit) for _ in range(SUBMITTERS)]
        for thread in self._threads:
            thread.start()

    def _submit(self) -> None:
        queue = opened(self._home)
        while not self._ending.is_set():
            run_id = new_id()
            submit(queue, run_id)
            with self._more:
                self.acknowledged.append(run_id)
                self._more.notify()
        queue.close()

    def go_on(self, submits: int) -> None:
        """Block until so many more were acknowledged."""
        with self._more:
            goal = len(self.acknowledged) + submits
            assert self._more.wait_for(lambda: len(self.acknowledged) >= goal, 30)

    def end(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()


def test_kill_9_under_load_loses_no_acknowledged_submit(homes: list[Path]) -> None:
    queue = opened(homes[0])
    processes = [process(queue)]
    load = Load(homes[0])
    try:
        for _ in range(25):
            load.go_on(BETWEEN)
            os.kill(processes[-1], signal.SIGKILL)
            processes.append(process(queue))
    finally:
        load.end()
    assert len(set(processes)) == 26
    assert len(load.acknowledged) >= 25 * BETWEEN
    assert lost(queue, load.acknowledged) == []
    queue.close()


def test_kill_9_as_the_second_turns_loses_no_acknowledged_submit(homes: list[Path]) -> None:
    """The moment at which `appendfsync everysec`, Redis' default, loses: a write after a quiet second starts a sync,
    and the next ones are kept back until it is done."""

    def kill_five_times(home: Path) -> list[RunId]:
        queue = opened(home)
        acknowledged: list[RunId] = []
        for _ in range(5):
            victim = process(queue)
            time.sleep(1.1)
            for run_id in new_ids(10):
                submit(queue, run_id)
                acknowledged.append(run_id)
            os.kill(victim, signal.SIGKILL)
            assert process(queue) != victim
        missing = lost(queue, acknowledged)
        queue.close()
        return missing

    with ThreadPoolExecutor(len(homes)) as threads:
        assert list(threads.map(kill_five_times, homes)) == [[]] * len(homes)


def test_who_wants_the_disk_switches_a_running_server_over_and_nobody_switches_it_back(homes: list[Path]) -> None:
    home = homes[0]
    first = opened(home)
    assert policy(first) == b"no"
    careful = opened(home, fsync=True)
    assert policy(careful) == b"always"
    another = opened(home)
    assert policy(another) == b"always"
    for queue in (first, careful, another):
        queue.close()
    server.stop(home)
    again = opened(home, fsync=True)
    assert policy(again) == b"always"
    again.close()
