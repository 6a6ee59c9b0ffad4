"""The tasks that the workers of this folder serve. What they do, they tell: one datagram per event to ``SINK``."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import time

from kapstan import task


def tell(*words: object) -> None:
    """Send one event to the test."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sink:
        sink.connect(os.environ["SINK"])
        sink.send(" ".join(map(str, words)).encode())


@task
def noop() -> None:
    return None


@task
def add(a: int, b: int) -> int:
    return a + b


@task
def mark(tag: str) -> str:
    """An effect that the test counts."""
    tell("ran", tag, os.getpid())
    return tag


@task
def work(tag: str) -> str:
    """An effect, and some milliseconds of work."""
    tell("ran", tag, os.getpid())
    time.sleep(0.004)
    return tag


@task
def hold(tag: str, gate: str) -> str:
    """Runs until the test opens ``gate``, a named pipe."""
    tell("began", tag, os.getpid())
    with open(gate, "rb", buffering=0) as pipe:
        pipe.read(1)
    tell("ended", tag, os.getpid())
    return tag


@task
def nap(seconds: float) -> None:
    time.sleep(seconds)


@task
def seize(tag: str, seconds: int) -> int:
    """Holds the interpreter for ``seconds``: no other thread of the process runs."""
    tell("began", tag, os.getpid())
    ctypes.PyDLL(None).sleep(seconds)
    return os.getpid()


@task
def die(tag: str) -> None:
    tell("began", tag, os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


@task
def leave() -> None:
    raise SystemExit(3)


@task(retries=2, retry_delay_seconds=0.5)
def third_time(tag: str) -> int:
    from kapstan.runtime import task_run

    tell("ran", tag, os.getpid())
    if task_run.run_count < 3:
        raise ValueError("not yet")
    return task_run.run_count


@task(timeout_seconds=0.2)
def too_long() -> None:
    time.sleep(30)


@task
async def asynchronous(a: int) -> int:
    await asyncio.sleep(0)
    return a + 1


@task
def stubborn(tag: str, gate: str) -> None:
    """Ignores being cancelled, from the moment that it tells that it began."""
    told = False
    while True:
        try:
            if not told:
                told = True
                tell("began", tag, os.getpid())
            with open(gate, "rb", buffering=0) as pipe:
                pipe.read(1)
                return
        except BaseException:  # noqa: BLE001  (the point of it)
            tell("ignored", tag, os.getpid())


@task
def large(tag: str, times: int) -> str:
    """An effect, and a result that is too large to ride in Redis."""
    tell("ran", tag, os.getpid())
    return tag * times


@task
def large_failure(tag: str, times: int) -> None:
    tell("ran", tag, os.getpid())
    raise ValueError(tag * times)


@task
def measure(tag: str, text: str) -> int:
    tell("ran", tag, os.getpid())
    return len(text)
