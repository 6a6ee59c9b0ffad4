"""Row takeover: how long a new attempt takes to own the journal of an old one that goes on writing and is not told."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event

from tests.bench.measuring import Bench, Line

from kapstan.errors import Fenced
from kapstan.ids import new_nonce
from kapstan.settings import Settings
from kapstan.store.checkpoints import CHUNK
from kapstan.store.s3 import S3Store

TAIL = CHUNK // 2
"""Segments behind the last checkpoint, on average."""
RECORD = b"r" * 350  # what the outcome of a small call takes, signature included
PATIENCE = 60.0


def takeover(bench: Bench) -> Iterator[Line]:
    with bench.minio("minio-takeover") as server:
        seconds = [_take_over(server.settings()) for _ in range(bench.rounds)]
    title = f"take-over of a busy journal in MinIO, {TAIL} segments behind a checkpoint"
    yield Line("takeover", title, "flow run", "ms", [1e3 * value for value in seconds])


def _take_over(settings: Settings) -> float:
    name = f"bench/{new_nonce()}"
    processes = multiprocessing.get_context("spawn")
    busy = processes.Event()
    old = processes.Process(target=_write_on, args=(settings, name, busy, TAIL))
    old.start()
    store = S3Store.from_settings(settings)
    try:
        store.get("anything")  # the connection stands, as in a flow process that has looked for the probe's verdict
        assert busy.wait(PATIENCE), "the old attempt did not come to write"
        log = store.log(name)
        begun = time.perf_counter()
        log.open(b"the opening of the new attempt")
        taken = time.perf_counter() - begun
        log.close()
    finally:
        store.close()
        old.join(PATIENCE)
    assert old.exitcode == 0, "the old attempt was fenced"
    return taken


def _write_on(settings: Settings, name: str, busy: Event, tail: int) -> None:
    """The old attempt: append after append, until another has the journal."""
    log = S3Store.from_settings(settings).log(name)
    log.open(b"the opening of the old attempt")
    with contextlib.suppress(Fenced):
        for number in range(1_000_000):
            if number == tail:
                busy.set()
            log.append([RECORD])
    log.close()
