"""Row list: a page of the newest of a million background runs, beside the bare reads of such a page."""

from __future__ import annotations

from collections.abc import Iterator

import redis
from tests.bench.measuring import Bench, Line, in_turns, p50

from kapstan import backend
from kapstan.ids import new_ids
from kapstan.ports import BackgroundFilter, Submission

RUNS = 1_000_000
ROUTES = 100
PAGE = 50
BLOCK = 20  # pages whose median is one figure
KIND = "background, pure"


def listing(bench: Bench) -> Iterator[Line]:
    with bench.redis("list") as server, server.client() as client:
        queue, runs = backend.current().queue, backend.current().background_runs
        for route in range(ROUTES):
            queue.submit_many(
                Submission(run_id, f"shop:task{route}", b"x" * 60, "12345678") for run_id in new_ids(RUNS // ROUTES)
            )
        _bare(client)
        none = BackgroundFilter(states=frozenset({"completed"}))
        cursor = runs.page(BackgroundFilter(), PAGE).cursor or ""
        ways = {
            "newest": lambda: p50(lambda: runs.page(BackgroundFilter(), PAGE), BLOCK),
            "next": lambda: p50(lambda: runs.page(BackgroundFilter(), PAGE, cursor), BLOCK),
            "scan": lambda: p50(lambda: runs.page(none, PAGE), 3),
            "bare": lambda: p50(lambda: _bare_page(client), BLOCK),
        }
        in_turns(1, ways)
        seconds = in_turns(bench.rounds, ways)
    figures = {way: [value * 1e3 for value in seconds[way]] for way in ways}
    yardstick = f"LRANGE, pipelined HGETALL of {PAGE}"
    bare = figures["bare"]
    yield Line("list", f"newest {PAGE} of {RUNS:,}", KIND, "ms", figures["newest"], yardstick, bare)
    yield Line("list-next", "the page after it", KIND, "ms", figures["next"], yardstick, bare)
    yield Line("list-scan", "a filter that finds none (2,000 read)", KIND, "ms", figures["scan"], yardstick, bare)


def _bare(client: redis.Redis) -> None:
    """The same page as a list of ids and hashes."""
    with client.pipeline(transaction=False) as pipeline:
        for number in range(10 * PAGE):
            pipeline.rpush("bare", f"run{number}")
            pipeline.hset(f"bare:run{number}", mapping={"state": "q", "task": "shop:task", "since": "0"})
        pipeline.execute()


def _bare_page(client: redis.Redis) -> None:
    names = client.lrange("bare", -PAGE, -1)
    with client.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.hgetall(b"bare:" + name)
        pipeline.execute()
