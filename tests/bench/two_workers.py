"""Row workers: two workers of one lane beside one, and the processor time that a no-op costs each process.

On two cores the processor times say what is possible however busy the machine is: one worker is bound by the slower of
worker and server, two by the cores that they share with the server.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import redis
from tests.bench.measuring import MODULE, Bench, Line, in_turns
from tests.bench.served import noop
from tests.servers.worker import Worker

from kapstan import backend, ids, settings
from kapstan.backend import Backend

RUNS = 40_000
TASK = "tests.bench.served:noop"
KIND = "background, pure, result stored"
_TICK = 1e6 / os.sysconf("SC_CLK_TCK")


class Cost(NamedTuple):
    """Processor time in microseconds: of the processes that execute, of their supervisors, of the server."""

    children: float
    supervisors: float
    server: float


def workers(bench: Bench) -> Iterator[Line]:
    costs: list[Cost] = []
    with bench.redis("workers") as server, server.client() as client:
        ways = {"one": lambda: _rate(1, client, costs), "two": lambda: _rate(2, client, costs)}
        figures = in_turns(bench.rounds, ways)
    yield Line("workers", "two workers of one lane", KIND, "/s", figures["two"], "one", figures["one"])
    yield Line("worker-cpu", "CPU of the executing children a no-op", KIND, "us", [cost.children for cost in costs])
    yield Line("supervisor-cpu", "CPU of the supervisors a no-op", KIND, "us", [cost.supervisors for cost in costs])
    yield Line("work-cpu", "CPU of the server a no-op: claim and end", KIND, "us", [cost.server for cost in costs])
    possible = [2 * max(cost.children, cost.server) / sum(cost) for cost in costs]
    yield Line("workers-possible", "what these allow two workers on two cores, of one", KIND, "x", possible)


def _rate(number: int, client: redis.Redis, costs: list[Cost]) -> float:
    """Runs a second; adds what each of them cost."""
    backend.use(None)  # a client that has not waited yet is not told of each end
    with ExitStack() as stack:
        at_work = [stack.enter_context(contextlib.closing(Worker(MODULE, limit=1))) for _ in range(number)]
        for worker in at_work:
            worker.ready()
        queue = backend.current().queue
        queue.pause(TASK)
        try:
            first, *_, last = noop.map([True, *[False] * (RUNS - 2), True], deferred=True)
            watcher = stack.enter_context(contextlib.closing(Backend(settings.current())))  # told of the last end only
            children = [child for worker in at_work for child in worker.children()]
            before = _times(client, children, at_work)
        finally:
            queue.resume(TASK)
        assert watcher.queue.wait([ids.parse(last.task_run_id)], 120), "the workers do not finish"
        after = _times(client, children, at_work)
        costs.append(Cost(*[(end - begun) / RUNS for begun, end in zip(before, after, strict=True)]))
        return RUNS / (last.result() - first.result())


def _times(client: redis.Redis, children: list[int], workers: list[Worker]) -> Cost:
    """Microseconds of processor time since they began."""
    about = client.info("cpu")
    server = 1e6 * (about["used_cpu_user"] + about["used_cpu_sys"])
    return Cost(sum(map(_used, children)), sum(_used(worker.pid) for worker in workers), server)


def _used(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return _TICK * (int(fields[11]) + int(fields[12]))
