"""The systems that are set side by side: how their workers are started, and what is said of them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from tests.bench.rivals import environment

import kapstan


@dataclass(frozen=True, slots=True)
class Side:
    """One system.

    Attributes:
        bin: the folder of its programs and its Python.
        module: its tasks, and how a caller hands them in.
        worker: the command of a worker that can execute five runs at once.
        locks: the names of its locks in Redis.
        as_it_comes, careful: what the two settings are.
    """

    title: str
    bin: Path
    module: str
    worker: tuple[str, ...]
    locks: str
    as_it_comes: str
    careful: str


def all_sides() -> dict[str, Side]:
    theirs = environment.bin_folder()
    place = "tests.bench.guarantees"
    return {
        "celery": Side(
            f"Celery {environment.version_of('celery')}",
            theirs,
            f"{place}.celery_side",
            ("celery", "-A", f"{place}.celery_side", "worker", "-c", "5", "-l", "WARNING"),
            "lock:*",
            "defaults",
            "acks_late, reject_on_worker_lost, prefetch 1, visibility_timeout 10 s (3600 s is the default), and the "
            "lock of its cookbook around the effect",
        ),
        "dramatiq": Side(
            f"dramatiq {environment.version_of('dramatiq')}",
            theirs,
            f"{place}.dramatiq_side",
            ("dramatiq", "--processes", "1", "--threads", "5", f"{place}.dramatiq_side"),
            "mutex:*",
            "defaults, but min_backoff 1 s (15 s is the default); results are stored",
            "the mutex of its manual (ConcurrentRateLimiter) around the effect",
        ),
        "kapstan": Side(
            f"Kapstan {kapstan.__version__}",
            Path(sys.executable).parent,
            f"{place}.kapstan_side",
            ("kapstan", "task", "serve", "--limit", "5", "--module", f"{place}.kapstan_side"),
            "*lk:*",
            "the payment as printed: cache_policy=INPUTS.configure(lock_manager=RedisLockManager())",
            "cache_policy=INPUTS, exactly_once=True, no lock manager",
        ),
    }
