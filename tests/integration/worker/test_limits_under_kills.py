"""Limits hold while workers and Redis are killed: no more run at a time than they say, and everything is done."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.worker import slotted
from tests.integration.worker.conftest import Sink
from tests.servers.redis import RedisServer
from tests.servers.worker import Worker

from kapstan import backend
from kapstan.errors import RunFailed
from kapstan.futures import Future

MODULE = "tests.integration.worker.slotted"
TASK = f"{MODULE}:slotted"
RUNS, KILLS = 400, 5


@pytest.fixture
def workers(server: RedisServer, sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Worker]]:
    monkeypatch.setenv("PLACES", str(tmp_path))
    workers: list[Worker] = []
    yield workers
    for each in workers:
        each.close()


def submitted(draw: random.Random) -> dict[int, tuple[Future[int], bool]]:
    found: dict[int, tuple[Future[int], bool]] = {}
    for number in range(RUNS):
        fails = draw.random() < 0.05
        arguments = (draw.choice("abcd"), number, draw.uniform(0.0, 0.04))
        future = slotted.slotted.apply_async(arguments, {"fails": fails}, priority=draw.choice([0, 0, 5, -5]))
        found[number] = (future, fails)
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1])
def test_they_hold_and_all_is_done(server: RedisServer, sink: Sink, workers: list[Worker], seed: int) -> None:
    draw = random.Random(seed)
    runs = submitted(draw)
    workers += [Worker(MODULE, limit=4).ready() for _ in range(2)]
    for number in range(KILLS):
        begun = len(sink.events)
        while len(sink.events) < begun + draw.randrange(5, 40) and not all(future.done for future, _ in runs.values()):
            sink.next(60.0)
        if number == 2:
            server.kill()
            server.start()
        victim = workers.pop(draw.randrange(len(workers)))
        victim.kill()
        victim.close()
        workers.append(Worker(MODULE, limit=4).ready())
    for number, (future, fails) in runs.items():
        if fails:
            with pytest.raises((ValueError, RunFailed)):
                future.result(timeout=120)
        else:
            assert future.result(timeout=120) == number
    events = sink.events
    assert {event[1] for event in events if event[0] == "over"} == set()
    assert len({event[1] for event in events if event[0] == "ran"}) == RUNS
    queue = backend.current().queue
    depth = queue.depth([TASK])
    assert (depth.ready, depth.limited, depth.running, depth.delayed) == (0, 0, 0, 0)
