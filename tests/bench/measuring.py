"""What every row shares: figures taken in turns, their ratios, and the servers and workers that they are taken on.

A row's figures and its yardstick's are taken in the same run, in turns, on the same server: the machine may be busy,
the ratio then still says something. Called by the families; knows no row.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.goals import GOALS, Goal
from tests.servers.minio import Minio
from tests.servers.redis import RedisServer
from tests.servers.worker import Worker

from kapstan import backend
from kapstan.store.s3 import S3Store

MODULE = "tests.bench.served"
"""The tasks that our workers serve."""


class NotApplicable(Exception):
    """This machine, or this call of the bench, has not what the row needs; the message says what."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table.

    Attributes:
        name: names the goal, and the line in the JSON file.
        kind: the kind of run whose outcome is stored, in the words of the durability table in docs/protocol.md.
        unit: of the figures: s, ms, us, B, /s.
        ours, theirs: one figure for each round; ``theirs`` empty where there is no yardstick.
    """

    name: str
    title: str
    kind: str
    unit: str
    ours: Sequence[float]
    yardstick: str = ""
    theirs: Sequence[float] = field(default=())

    @property
    def ratios(self) -> list[float]:
        """Ours to theirs, round by round."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=bool(self.theirs))]

    @property
    def goal(self) -> Goal | None:
        return GOALS.get(self.name)

    @property
    def verdict(self) -> str:
        """``met``, or by how much it falls short; empty where nothing is aimed at."""
        if self.goal is None:
            return ""
        reached = statistics.median(self.ratios if self.goal.of == "ratio" else self.ours)
        return self.goal.verdict(reached)


@dataclass(frozen=True, slots=True)
class Bench:
    """What a family measures with: ``rounds`` figures a line, and a folder for servers, homes and sockets."""

    folder: Path
    rounds: int
    cluster: bool = False

    @contextmanager
    def redis(self, name: str) -> Iterator[RedisServer]:
        """A new server with an append-only file, which this process and the workers that it starts use."""
        server = RedisServer(self.folder / name)
        server.start()
        os.environ["KAPSTAN_REDIS_URL"] = os.environ["BENCH_REDIS_URL"] = server.url
        backend.use(None)
        try:
            yield server
        finally:
            backend.use(None)
            del os.environ["KAPSTAN_REDIS_URL"], os.environ["BENCH_REDIS_URL"]
            server.stop()

    @contextmanager
    def minio(self, name: str) -> Iterator[Minio]:
        """A new server with its bucket."""
        server = Minio(self.folder / name)
        server.start()
        try:
            S3Store.from_settings(server.settings()).ensure_bucket()
            yield server
        finally:
            server.kill()


@contextmanager
def serving(*, ready: bool = True) -> Iterator[Worker]:
    """A worker process with one lane that serves ``MODULE``."""
    worker = Worker(MODULE, limit=1)
    try:
        yield worker.ready() if ready else worker
    finally:
        worker.close()


def in_turns(rounds: int, ways: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """One figure of every way a round, each round in the opposite order of the one before."""
    figures: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    for _ in range(rounds):
        for name in order:
            figures[name].append(ways[name]())
        order.reverse()
    return figures


def p50(call: Callable[[], object], times: int) -> float:
    """The median duration of ``call`` in seconds."""
    durations: list[float] = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        durations.append(time.perf_counter() - begun)
    return statistics.median(durations)


def pairwise(rounds: int, times: int, ways: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """The median duration of every way in seconds, one a round; call by call in turns: all see the same load."""
    figures: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        durations: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(times):
            for name, call in ways.items():
                durations[name].append(p50(call, 1))
        for name, each in durations.items():
            figures[name].append(statistics.median(each))
    return figures


def rate(call: Callable[[], object], runs: int) -> float:
    """How many of the ``runs`` that one ``call`` makes are made in a second."""
    begun = time.perf_counter()
    call()
    return runs / (time.perf_counter() - begun)
