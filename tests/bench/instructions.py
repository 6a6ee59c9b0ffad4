"""Row instructions: what the server executes for a no-op, counted by callgrind, so that a busy machine changes nothing.

A server under callgrind is some fifty times slower, and a worker then claims few runs at a time and gives others back.
Therefore a lane of this process sends the steps of a worker that is busy: as many outcomes and claims as fill a step.
What an idle server does by the clock is in the figures, a few in a hundred.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis
from tests.bench.measuring import Bench, Line, NotApplicable
from tests.bench.throughput import bare_stream
from tests.contract.queue import makers
from tests.servers.minio import free_port
from tests.servers.redis import binary

from kapstan import backend

RUNS, BATCH = 4_000, 200
IDLE = 300  # runs that come one by one
START_SECONDS = 120.0


def instructions(bench: Bench) -> Iterator[Line]:
    if not shutil.which("valgrind"):
        raise NotApplicable("valgrind is not installed")
    with _counted(bench.folder / "instructions") as (client, count):
        bare_stream(client, BATCH)
        bare = count("bare", lambda: bare_stream(client, RUNS))
        client.flushall()
        queue = backend.current().queue
        worker = makers.worker(queue)
        try:
            queue.submit_many([makers.run() for _ in range(BATCH)])
            _work(worker)
            submit = count("submit", lambda: queue.submit_many([makers.run() for _ in range(RUNS)]))
            work = count("work", lambda: _work(worker))
            _one_by_one(worker, 20)
            idle = count("idle", lambda: _one_by_one(worker, IDLE)) * RUNS / IDLE
        finally:
            worker.close()
    kind = "background, pure, result stored, nobody waits"
    yield Line("instructions", "server, a no-op", kind, "k instructions", [submit + work], "bare stream", [bare])
    yield Line("instructions-submit", "its bulk submit", kind, "k instructions", [submit])
    yield Line("instructions-work", "its claim and end", kind, "k instructions", [work])
    yield Line("instructions-idle", "server, a no-op that comes alone", kind, "k instructions", [idle])


def _one_by_one(worker: makers.Worker, runs: int) -> None:
    """A lane that is idle is handed a run, ends it and is idle again."""
    for _ in range(runs):
        backend.current().queue.submit(makers.run())
        worker.lane.step([makers.done(claim) for claim in worker.lane.wait(START_SECONDS)], {makers.TASK: BATCH})


def _work(worker: makers.Worker) -> None:
    claims = worker.lane.step([], {makers.TASK: BATCH}).claims
    while claims:
        claims = worker.lane.step([makers.done(claim) for claim in claims], {makers.TASK: BATCH}).claims


@contextlib.contextmanager
def _counted(folder: Path) -> Iterator[tuple[redis.Redis, Callable[[str, Callable[[], object]], float]]]:
    """A server under callgrind, and what counts the thousands of instructions a run that it executes during a call."""
    folder.mkdir()
    port, out = free_port(), folder / "out"
    command = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}", binary(), "--port", str(port)]
    options = ["--dir", str(folder), "--appendonly", "yes", "--appendfsync", "no", "--save", "", "--logfile", "log"]
    process = subprocess.Popen([*command, *options])
    taken: list[str] = []

    def count(name: str, call: Callable[[], object]) -> float:
        control = ("callgrind_control", str(process.pid))
        subprocess.run([*control, "--zero"], check=True, stdout=subprocess.DEVNULL)
        call()
        subprocess.run([*control, f"--dump={name}"], check=True, stdout=subprocess.DEVNULL)
        taken.append(name)
        found = re.search(r"^(?:summary|totals): (\d+)", Path(f"{out}.{len(taken)}").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) / RUNS / 1e3

    try:
        with redis.Redis(port=port) as client:
            _await(client)
            os.environ["KAPSTAN_REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
            backend.use(None)
            yield client, count
    finally:
        backend.use(None)
        os.environ.pop("KAPSTAN_REDIS_URL", None)
        process.kill()
        process.wait()


def _await(client: redis.Redis) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            client.ping()
            return
        except redis.ConnectionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
