"""The tasks that the workers of this folder serve. What they do, they tell: one datagram per event to ``SINK``."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from kapstan import flow, task
from kapstan.engine import chain
from kapstan.locking import RedisLockManager


def tell(*words: object) -> None:
    """Send one event to the test."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sink:
        sink.connect(os.environ["SINK"])
        sink.send(" ".join(map(str, words)).encode())


def told_of(execution: Any, proceed: Any) -> Any:
    """A step of a run like those of the product: it tells when it hands on and what came back."""
    tell("step", execution.run.task_name, os.getpid())
    state = yield from proceed(execution)
    tell(f"ended-{state.name}", execution.run.task_name, os.getpid())
    return state


chain.STEPS = (chain.Link(told_of, lambda spec: spec.name.startswith("stepped")), *chain.STEPS)


@task
def stepped(a: int = 1) -> int:
    return a


@task
async def stepped_async(a: int = 1) -> int:
    return a


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


@task(queue="slow")
def marked_in_a_queue(tag: str) -> str:
    tell("marked", tag, os.getpid())
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


@task(concurrency_limit=1)
def one_at_a_time(tag: str, gate: str) -> str:
    tell("began", tag, os.getpid())
    with open(gate, "rb", buffering=0) as pipe:
        pipe.read(1)
    tell("ended", tag, os.getpid())
    return tag


_failed: set[str] = set()


@task
def fails_once(tag: str) -> str:
    """Fails the first time that this process sees ``tag``."""
    tell("ran", tag, os.getpid())
    if tag not in _failed:
        _failed.add(tag)
        raise ValueError(tag)
    return tag


@task
def delays_another(tag: str, gate: str) -> str:
    """Submits a run, and is long enough to be killed after that."""
    child = mark.delay(tag)
    tell("delayed", tag, os.getpid())
    with open(gate, "rb", buffering=0) as pipe:
        pipe.read(1)
    return child.result(timeout=30)


@flow
def marks_in_a_flow(tag: str) -> str:
    return mark(tag)


@task
def calls_a_flow(tag: str, gate: str) -> str:
    """Has a flow done its work, and is long enough to be killed after that."""
    result = marks_in_a_flow(tag)
    tell("called", tag, os.getpid())
    with open(gate, "rb", buffering=0) as pipe:
        pipe.read(1)
    return result


@task
def identity(value: Any) -> Any:
    return value


@task
def nested(depth: int) -> int:
    """Submits itself in the background, and waits for that."""
    return depth and 1 + nested.delay(depth - 1).result(timeout=60)


@task
async def anested(depth: int) -> int:
    return depth and 1 + await anested.delay(depth - 1).result_async(timeout=60)


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


def _helper(tag: str, gate: str) -> None:
    """What a process that a run has started does: it waits, then has its effect."""
    tell("helps", tag, os.getpid())
    with open(gate, "rb", buffering=0) as pipe:
        pipe.read(1)
    tell("effect", tag, os.getpid())


def _start_helper(tag: str, gate: str, how: str) -> None:
    """``program``, ``session`` (of its own), ``fork`` (no program is executed) or ``daemon`` (forked twice)."""
    if how in ("fork", "daemon"):
        pid = os.fork()
        if pid == 0:
            if how == "daemon" and (os.setsid() or True) and os.fork():
                os._exit(0)
            _helper(tag, gate)
            os._exit(0)
        if how == "daemon":
            os.waitpid(pid, 0)
        return
    code = f"from tests.integration.worker.served import _helper; _helper({tag!r}, {gate!r})"
    subprocess.Popen([sys.executable, "-c", code], start_new_session=how == "session")


@task
def helped(tag: str, gate: str, how: str) -> None:
    _start_helper(tag, gate, how)
    hold.fn(tag, gate)


@task(timeout_seconds=3)
def helped_for_three_seconds(tag: str, gate: str, how: str) -> None:
    _start_helper(tag, gate, how)
    hold.fn(tag, gate)


@task
def leaves_a_helper(tag: str, gate: str, how: str) -> int:
    _start_helper(tag, gate, how)
    return os.getpid()


@task
def terminates_a_fork() -> int:
    """The exit code of a forked process that was told to end."""
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join(20)
    return process.exitcode if process.exitcode is not None else -1000


@task
def comes_back_from_a_fork(then: str) -> str:
    """The exit code of a forked process that returns into the task, or raises or calls a task there."""
    pid = os.fork()
    if pid == 0:
        if then == "raises":
            raise KeyError(then)
        if then == "calls":
            add(1, 2)
        return "the child's"
    return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


@task
async def comes_back_from_a_fork_async(then: str) -> str:
    return await asyncio.sleep(0, comes_back_from_a_fork.fn(then))


@task
def rings_its_alarm() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    time.sleep(20)


@task
def locked(tag: str, key: str, gate: str) -> int:
    """Holds the lock ``key`` in Redis until the test opens ``gate``; its fencing token."""
    with RedisLockManager().lock(key) as held:
        tell("holds", tag, os.getpid())
        with open(gate, "rb", buffering=0) as pipe:
            pipe.read(1)
        return held.guard()


@task(result_storage=os.environ.get("KAPSTAN_TEST_RESULTS"), result_serializer="compressed/pickle")
def stored(tag: str, size: int) -> bytes:
    tell("ran", tag, os.getpid())
    return os.urandom(16) * (size // 16)


@task(result_storage_key="by-tag/{parameters[tag]}")
def named(tag: str, size: int) -> dict[str, str]:
    tell("ran", tag, os.getpid())
    return {"text": tag[-1] * size}
