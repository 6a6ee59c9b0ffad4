"""Rows fairness and recovery: short runs among long ones, and a child that is killed."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.measuring import Bench, Line, serving
from tests.bench.served import nap, noop, visit

from kapstan import wait

KIND = "background, pure, result stored"
NAPS, NAP = 20, 0.1


def fairness(bench: Bench) -> Iterator[Line]:
    with bench.redis("fairness"), serving(), serving():
        wait(nap.map([NAP, NAP], deferred=True))  # both are at work
        seconds = [_mixed() for _ in range(bench.rounds)]
    title = f"{NAPS} x {NAP * 1000:.0f} ms among 3,200 no-ops, two workers"
    yield Line("fairness", title, KIND, "s", seconds, "ideal", [NAPS * NAP / 2] * bench.rounds)


def _mixed() -> float:
    begun = time.perf_counter()
    futures = [
        *noop.map([False] * 3000, deferred=True),
        *nap.map([NAP] * NAPS, deferred=True),
        *noop.map([False] * 200, deferred=True),
    ]
    wait(futures)
    return time.perf_counter() - begun


def recovery(bench: Bench) -> Iterator[Line]:
    path = bench.folder / "visits"
    with bench.redis("recovery"), serving(), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(30)
        seconds = [_killed(listener, path) for _ in range(bench.rounds)]
    yield Line("recovery", "kill -9 of a child, until its run runs again", KIND, "ms", [1e3 * s for s in seconds])


def _killed(listener: socket.socket, path: Path) -> float:
    future = visit.delay(str(path))
    first, _ = listener.accept()
    with first:
        os.kill(int(first.recv(16)), signal.SIGKILL)
        killed = time.perf_counter()
    second, _ = listener.accept()
    took = time.perf_counter() - killed
    with second:
        second.recv(16)  # closed with bytes unread it would be reset
    future.result(timeout=20)
    return took
