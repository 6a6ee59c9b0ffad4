"""Rows flow and flow-s3: what a task call in a flow costs beside the append that makes its outcome durable, and the
append beside a bare write of the same bytes."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from tests.bench.measuring import Bench, Line, in_turns, p50, rate
from tests.bench.served import nap
from tests.servers.minio import ACCESS_KEY, BUCKET, SECRET_KEY, Minio

from kapstan import backend, flow, settings, task
from kapstan.ports import RunLog
from kapstan.task_runners import ThreadPoolTaskRunner

BLOCK = 200
THREADS = 16
NAP = 0.02
KIND = "task call in a flow"
RECORD = b"r" * 350  # what the outcome of a small call takes, signature included


@task
def echo(number: int) -> int:
    return number


@flow
def calls(times: int) -> float:
    """The median duration of a task call in it, in seconds."""
    durations: list[float] = []
    for number in range(times):
        begun = time.perf_counter()
        echo(number)
        durations.append(time.perf_counter() - begun)
    return statistics.median(durations)


@flow(task_runner=ThreadPoolTaskRunner(max_workers=THREADS))
def naps(times: int) -> float:
    """How many short submitted tasks it finished in a second."""
    begun = time.perf_counter()
    for future in [nap.submit(NAP) for _ in range(times)]:
        future.wait()
    return times / (time.perf_counter() - begun)


def local(bench: Bench) -> Iterator[Line]:
    backend.use(None)
    log = _opened("local")
    bare = os.open(bench.folder / "bare", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        seconds = in_turns(
            bench.rounds,
            {
                "call": lambda: calls(BLOCK),
                "append": lambda: p50(lambda: log.append([RECORD]), BLOCK),
                "write": lambda: p50(lambda: os.write(bare, RECORD), BLOCK),
            },
        )
    finally:
        os.close(bare)
        log.close()
        backend.use(None)
    call, append, write = ([1e6 * value for value in figures] for figures in seconds.values())
    yield Line("append-local", "append to a local journal p50", KIND, "us", append, "bare os.write", write)
    yield Line("call-local", "task call in a flow p50, local journal", KIND, "us", call, "the bare append", append)


def s3(bench: Bench) -> Iterator[Line]:
    with bench.minio("minio") as server:
        try:
            yield from _on_minio(bench, server)
        finally:
            backend.use(None)


def _on_minio(bench: Bench, server: Minio) -> Iterator[Line]:
    ours = settings.current()
    backend.use(server.settings(home=ours.home, log_level=ours.log_level))
    log, put = _opened("s3"), _bare_put(server)
    ways: dict[str, Callable[[], float]] = {
        "call": lambda: calls(BLOCK // 2),
        "append": lambda: p50(lambda: log.append([RECORD]), BLOCK // 2),
        "put": lambda: p50(put, BLOCK // 2),
        "naps": lambda: naps(BLOCK),
        "no journal": _unjournalled,
    }
    figures = in_turns(bench.rounds, ways)
    log.close()
    call, append, bare = ([1e3 * value for value in figures[way]] for way in ("call", "append", "put"))
    yield Line("append-s3", "append to a journal in MinIO p50", KIND, "ms", append, "bare Minio.put_object", bare)
    yield Line("call-s3", "task call in a flow p50, journal in MinIO", KIND, "ms", call, "bare Minio.put_object", bare)
    title = f"{BLOCK} x {NAP * 1000:.0f} ms by submit(), {THREADS} threads, MinIO"
    yield Line("concurrent-s3", title, KIND, "/s", figures["naps"], "threads without a journal", figures["no journal"])


def _opened(name: str) -> RunLog:
    log = backend.current().store.log(f"bench/{name}")
    log.open(b"the opening of this process")
    return log


def _bare_put(server: Minio) -> Callable[[], object]:
    import io

    import minio

    client = minio.Minio(server.url.removeprefix("http://"), access_key=ACCESS_KEY, secret_key=SECRET_KEY, secure=False)
    numbers = count()
    return lambda: client.put_object(BUCKET, f"bare/{next(numbers)}", io.BytesIO(RECORD), len(RECORD))


def _unjournalled() -> float:
    with ThreadPoolExecutor(THREADS) as threads:
        return rate(lambda: list(threads.map(nap.fn, [NAP] * BLOCK)), BLOCK)
