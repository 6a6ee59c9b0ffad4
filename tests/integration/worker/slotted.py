"""Limited tasks that find out themselves whether too many of them are at it: each takes a free lock file, or says that
there is none. A process that dies leaves its lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tests.integration.worker.served import tell

from kapstan import task

LIMIT, GROUP_LIMIT = 3, 2


@contextlib.contextmanager
def place(name: str, places: int) -> Iterator[None]:
    """One of ``places`` lock files; told if all are taken."""
    for number in range(places):
        file = os.open(Path(os.environ["PLACES"]) / f"{name}-{number}", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        try:
            yield
        finally:
            os.close(file)
        return
    tell("over", name, os.getpid())
    yield


@task(
    concurrency_limit=LIMIT, group="{group}", group_concurrency_limit=GROUP_LIMIT, rate_limit="200/s", retries=1,
    retry_delay_seconds=0.1,
)  # fmt: skip
def slotted(group: str, number: int, seconds: float, *, fails: bool = False) -> int:
    with place("all", LIMIT), place(f"group-{group}", GROUP_LIMIT):
        tell("ran", f"{group}-{number}", os.getpid())
        time.sleep(seconds)
        if fails:
            raise ValueError("once, and once more")
    return number
