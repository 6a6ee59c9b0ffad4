"""Row throughput: tasks a second of one worker process that stores results, beside a peer and a bare stream loop.

Everything is queued before the worker starts. The first and the last run note when: the start of a process is not
counted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import redis
from tests.bench.measuring import Bench, Line, in_turns, serving
from tests.bench.rivals.processes import running
from tests.bench.served import noop

from kapstan import ids, settings
from kapstan.backend import Backend

RUNS = 20_000
PEER_RUNS = 2_000
THREADS = (2, 8)  # the better count of dramatiq is looked for first
PER_PIPELINE = 100
KIND = "background, pure, result stored"


def throughput(bench: Bench) -> Iterator[Line]:
    with bench.redis("throughput") as server, server.client() as client:
        log = bench.folder / "dramatiq.log"
        best = max(THREADS, key=lambda threads: _dramatiq(threads, PEER_RUNS // 4, log))
        figures = in_turns(
            bench.rounds,
            {
                "ours": _ours,
                "dramatiq": lambda: _dramatiq(best, PEER_RUNS, log),
                "raw": lambda: RUNS / bare_stream(client, RUNS),
            },
        )
    title, ours = "tasks/s, one process, no-op", figures["ours"]
    many = f"dramatiq, one process, {best} thread{'s' if best > 1 else ''}"
    yield Line("throughput-dramatiq", title, KIND, "/s", ours, many, figures["dramatiq"])
    yield Line("throughput-raw", title, KIND, "/s", ours, f"bare stream, {PER_PIPELINE} per pipeline", figures["raw"])


def _ours() -> float:
    first, *_, last = noop.map([True, *[False] * (RUNS - 2), True], deferred=True)
    watcher = Backend(settings.current())  # not the submitter, which would be told of every single end
    with serving(ready=False):
        assert watcher.queue.wait([ids.parse(last.task_run_id)], 120), "the worker does not finish"
        took = last.result() - first.result()
    watcher.close()
    return RUNS / took


def _dramatiq(threads: int, runs: int, log: Path) -> float:
    from tests.bench.rivals import dramatiq_tasks  # needs the server's address

    first = dramatiq_tasks.noop.send(True)
    for _ in range(runs - 2):
        dramatiq_tasks.noop.send()
    last = dramatiq_tasks.noop.send(True)
    arguments = ("--processes", "1", "--threads", str(threads), "--skip-logging", "tests.bench.rivals.dramatiq_tasks")
    with running("dramatiq", *arguments, log=log):
        ended = last.get_result(block=True, timeout=120_000)
        return runs / (ended - first.get_result(block=True, timeout=1_000))


def bare_stream(client: redis.Redis, runs: int) -> float:
    """Seconds for so many runs on a stream: XREADGROUP, then SET of the result and XACK for each, a hundred runs in two
    round trips, and nothing else."""
    client.delete("stream")
    client.xgroup_create("stream", "group", mkstream=True)
    with client.pipeline(transaction=False) as pipeline:
        for _ in range(runs):
            pipeline.xadd("stream", {"arguments": "[[],{}]"})
        pipeline.execute()
    done, begun = 0, time.perf_counter()
    while done < runs:
        ((_, entries),) = client.xreadgroup("group", "one", {"stream": ">"}, count=PER_PIPELINE)
        with client.pipeline(transaction=False) as pipeline:
            for entry, fields in entries:
                args, kwargs = json.loads(fields[b"arguments"])
                result = noop.fn(*args, **kwargs)
                pipeline.set(b"result:" + entry, json.dumps(result), ex=3600)
                pipeline.xack("stream", "group", entry)
            pipeline.execute()
        done += len(entries)
    return time.perf_counter() - begun
