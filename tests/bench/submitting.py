"""Rows submit, bulk and memory: what it costs to accept a background run. Nobody executes them."""

from __future__ import annotations

from collections.abc import Iterator

import redis
from tests.bench.measuring import Bench, Line, in_turns, p50, rate
from tests.bench.served import take

PAYLOAD = "x" * 200
BLOCK = 400  # calls whose median is one figure
BULK = 10_000
PER_PIPELINE = 500
QUEUED = 20_000
KIND = "background, pure"


def submit(bench: Bench) -> Iterator[Line]:
    with bench.redis("submit") as server, server.client() as client:
        ways = {
            "delay": lambda: p50(lambda: take.delay(PAYLOAD), BLOCK),
            "XADD": lambda: p50(lambda: client.xadd("bare", {"payload": PAYLOAD}), BLOCK),
        }
        in_turns(1, ways)  # connections are made, scripts loaded
        seconds = in_turns(bench.rounds, ways)
    ours, theirs = ([value * 1e6 for value in seconds[way]] for way in ways)
    yield Line("submit", "delay() p50, 200 bytes", KIND, "us", ours, "XADD by redis-py", theirs)


def bulk(bench: Bench) -> Iterator[Line]:
    with bench.redis("bulk") as server, server.client() as client:
        payloads = [PAYLOAD] * BULK
        ways = {
            "map": lambda: rate(lambda: take.map(payloads, deferred=True), BULK),
            "XADD": lambda: rate(lambda: _pipelined(client), BULK),
        }
        in_turns(1, ways)
        figures = in_turns(bench.rounds, ways)
    yardstick = f"XADD, {PER_PIPELINE} per pipeline"
    yield Line("bulk", "map(deferred=True), 200 bytes", KIND, "/s", figures["map"], yardstick, figures["XADD"])


def memory(bench: Bench) -> Iterator[Line]:
    """Of ``used_memory``; the same every time, so it is taken once."""
    with bench.redis("memory") as server, server.client() as client:
        take.delay(PAYLOAD)
        client.xadd("bare", {"payload": PAYLOAD})
        begun = _used(client)
        take.map([PAYLOAD] * QUEUED, deferred=True)
        queued = _used(client)
        for _ in range(QUEUED // BULK):
            _pipelined(client)
        streamed = _used(client)
    ours, theirs = (queued - begun) / QUEUED, (streamed - queued) / QUEUED
    yield Line("memory", "a queued run of 200 bytes", KIND, "B", [ours], "XADD of the same payload", [theirs])


def _pipelined(client: redis.Redis) -> None:
    for _ in range(BULK // PER_PIPELINE):
        with client.pipeline(transaction=False) as pipeline:
            for _ in range(PER_PIPELINE):
                pipeline.xadd("bare", {"payload": PAYLOAD})
            pipeline.execute()


def _used(client: redis.Redis) -> int:
    return client.info("memory")["used_memory"]
