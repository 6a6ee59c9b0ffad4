"""The keeper of locks in Redis: nobody's child, there until its process ends, and gone then or before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.contract.locks.program import REPOSITORY, keepers_of
from tests.servers.redis import RedisServer

from kapstan import backend
from kapstan.errors import LockUnavailable
from kapstan.locking import RedisLockManager

pytestmark = pytest.mark.usefixtures("lease")


@pytest.fixture
def locks(redis_of_locks: RedisServer) -> Iterator[RedisLockManager]:
    yield RedisLockManager(host="127.0.0.1", port=redis_of_locks.port)
    backend.use(None)


def run(redis: RedisServer, program: str) -> list[str]:
    """What a program prints."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(redis),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def environment(redis: RedisServer) -> dict[str, str]:
    """In which ``RedisLockManager()`` is that of ``redis``, and this repository is imported."""
    path = f"{REPOSITORY / 'operator'}:{REPOSITORY}"
    return {**os.environ, "PYTHONPATH": path, "KAPSTAN_REDIS_URL": f"redis://127.0.0.1:{redis.port}"}


def until(true: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


_WAITS_FOR_ALL = """
from kapstan.locking import RedisLockManager
locks = RedisLockManager()
import os
assert locks.acquire_lock("waits for all", "a")
for _ in range(2):
    if os.fork() == 0:
        os._exit(0)
reaped = 0
try:
    while True:
        os.wait()
        reaped += 1
except ChildProcessError:
    print(reaped, locks.is_lock_holder("waits for all", "a"))
locks.release_lock("waits for all", "a")
"""


def test_code_that_waits_for_all_its_children_does_not_see_it(redis_of_locks: RedisServer) -> None:
    assert run(redis_of_locks, _WAITS_FOR_ALL) == ["2 True"]


_REAPS_ALL = """
import os, threading
ended = threading.Event()
def reap():
    while not ended.is_set():
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            pass
threading.Thread(target=reap).start()
try:
    from kapstan.locking import RedisLockManager
    locks = RedisLockManager()
    assert locks.acquire_lock("reaps all", "a")
    print(locks.guard_lock("reaps all", "a") > 0)
    locks.release_lock("reaps all", "a")
finally:
    ended.set()
"""


def test_code_that_reaps_every_child_takes_nothing_from_it(redis_of_locks: RedisServer) -> None:
    assert run(redis_of_locks, _REAPS_ALL) == ["True"]


_AT_EXIT = """
import atexit, time
def last():
    began = time.monotonic()
    try:
        print(locks.acquire_lock("at exit", "b", 20))
        locks.release_lock("at exit", "b")
    except LockUnavailable as error:
        print(error)
    print(time.monotonic() - began < 10)
atexit.register(last)
from kapstan.errors import LockUnavailable
from kapstan.locking import RedisLockManager
locks = RedisLockManager()
"""


def test_a_lock_in_an_exit_handler_is_had_at_once(redis_of_locks: RedisServer) -> None:
    """The keeper had been told to end, and was waited for."""
    used = _AT_EXIT + 'assert locks.acquire_lock("before", "a")\n'
    assert run(redis_of_locks, used) == ["True", "True"]


def test_the_first_lock_in_an_exit_handler_is_refused_at_once(redis_of_locks: RedisServer) -> None:
    """Python neither imports what it needs then, nor starts a thread."""
    reason, at_once = run(redis_of_locks, _AT_EXIT)
    assert "no lock can be had for the first time while the interpreter ends" in reason
    assert at_once == "True"


_AT_EXIT_ASYNC = """
import asyncio, atexit
async def main():
    print(await locks.aacquire_lock("at exit", "c", 20))
    await locks.arelease_lock("at exit", "c")
atexit.register(lambda: asyncio.run(main()))
from kapstan.locking import RedisLockManager
locks = RedisLockManager()
assert locks.acquire_lock("before", "a")
asyncio.run(locks.arelease_lock("before", "a"))
"""


def test_a_coroutine_in_an_exit_handler_has_it_too(redis_of_locks: RedisServer) -> None:
    """No thread can be had then that makes calls of coroutines."""
    assert run(redis_of_locks, _AT_EXIT_ASYNC) == ["True"]


def test_a_process_that_starts_no_thread_is_told_and_leaves_no_keeper(
    locks: RedisLockManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.use(None)
    until(lambda: not keepers_of(os.getpid()))
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("kapstan-lock"):
            raise RuntimeError("can't create new thread at interpreter shutdown")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(LockUnavailable, match="starts no thread"):
        locks.acquire_lock("k", "a", 5)
    until(lambda: not keepers_of(os.getpid()))
    monkeypatch.undo()
    assert locks.acquire_lock("no thread", "a", 20)
    locks.release_lock("no thread", "a")


_EXECUTES = """
from kapstan.locking import RedisLockManager
locks = RedisLockManager()
import os, sys
assert locks.acquire_lock("executes", "a")
os.execv(sys.executable, [sys.executable, "-c", "print('another', flush=True); input()"])
"""


def test_a_process_that_executes_another_program_holds_nothing(
    redis_of_locks: RedisServer, locks: RedisLockManager
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _EXECUTES],
        env=environment(redis_of_locks),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"another\n"
        assert locks.acquire_lock("executes", "b", 20)
        locks.release_lock("executes", "b")
        process.kill()


_SUBREAPER = """
from kapstan.locking import RedisLockManager
locks = RedisLockManager()
import ctypes, os, signal, time
from pathlib import Path
from tests.contract.locks.program import keepers_of
ctypes.CDLL(None).prctl(36, 1)
assert locks.acquire_lock("adopts", "a")
(first,) = keepers_of(os.getpid())
os.kill(first, signal.SIGKILL)
deadline = time.monotonic() + 30
while not (set(keepers_of(os.getpid())) - {first}):
    assert time.monotonic() < deadline
    time.sleep(0.02)
children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
print(str(first) in children, locks.is_lock_holder("adopts", "a"))
locks.release_lock("adopts", "a")
"""


def test_an_init_or_subreaper_keeps_no_zombie_of_it(redis_of_locks: RedisServer) -> None:
    assert run(redis_of_locks, _SUBREAPER) == ["False True"]


_ENDS = """
from kapstan.locking import RedisLockManager
locks = RedisLockManager()
import os
assert locks.acquire_lock("ends", "a")
print(os.getpid())
"""


def test_it_ends_with_its_process(redis_of_locks: RedisServer, locks: RedisLockManager) -> None:
    (pid,) = run(redis_of_locks, _ENDS)
    until(lambda: not keepers_of(int(pid)))
    assert locks.acquire_lock("ends", "b", 20)
    locks.release_lock("ends", "b")


def test_a_keeper_that_cannot_be_started_again_at_first_is_started_later(
    locks: RedisLockManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine had no process to give."""
    backend.use(None)
    assert locks.acquire_lock("again", "a")
    (keeper,) = keepers_of(os.getpid())
    real, refused = subprocess.Popen, threading.Event()

    def popen(*args: Any, **options: Any) -> Any:
        if not refused.is_set():
            refused.set()
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return real(*args, **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    os.kill(keeper, signal.SIGKILL)
    until(lambda: set(keepers_of(os.getpid())) - {keeper})
    assert refused.is_set()
    locks.release_lock("again", "a")
