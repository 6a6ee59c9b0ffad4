"""Row server-cost: processor time of the server for a run from submit to the end that its waiter hears of.

Everything is in it: index, counters, results, the append-only file, what the server does for its connections. It says
what a namespace can carry, however many workers there are.
"""

from __future__ import annotations

from collections.abc import Iterator

import redis
from tests.bench.measuring import Bench, Line, serving
from tests.bench.served import noop
from tests.bench.throughput import bare_stream
from tests.servers.redis import RedisServer

RUNS = 50_000


def server_cost(bench: Bench) -> Iterator[Line]:
    submits: list[float] = []
    works: list[float] = []
    bare: list[float] = []
    for number in range(bench.rounds):
        with bench.redis(f"server-cost-{number}") as server, server.client() as client:
            begun = _used(client)
            bare_stream(client, RUNS)  # on a busy machine a processor second does less, for both alike
            bare.append((_used(client) - begun) / RUNS * 1e6)
            client.flushall()
            submitted, worked = _one_round(server, client)
            submits.append(submitted)
            works.append(worked)
    kind = "background, pure, result stored, the submitter waits"
    both = [submitted + worked for submitted, worked in zip(submits, works, strict=True)]
    yield Line("server-cost", "server CPU a no-op", kind, "us", both, "bare stream: XADD, XREADGROUP, SET, XACK", bare)
    yield Line("server-cost-submit", "server CPU a no-op: its bulk submit", kind, "us", submits)
    yield Line("server-cost-work", "server CPU a no-op: claim, end, telling", kind, "us", works)


def _one_round(server: RedisServer, client: redis.Redis) -> tuple[float, float]:
    """Microseconds a run of the server's processor time: for the submit, for the rest."""
    begun = _used(client)
    futures = noop.map([False] * RUNS, deferred=True)
    submitted = _used(client)
    with serving(ready=False):
        futures[-1].result(timeout=120)  # who waits for one of its runs is told of the ends of all
        ended = _used(client)
    return (submitted - begun) / RUNS * 1e6, (ended - submitted) / RUNS * 1e6


def _used(client: redis.Redis) -> float:
    about = client.info("cpu")
    return about["used_cpu_user"] + about["used_cpu_sys"]
