"""Calls that are broken off: cancelled, interrupted, their event loop or backend closed, the process forked."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from tests.contract.locks.program import keepers_of

from kapstan import backend
from kapstan.backend import Backend, LockPlace
from kapstan.errors import LockUnavailable
from kapstan.locking import (
    FileSystemLockManager,
    LockLost,
    LockManager,
    MemoryLockManager,
    PostgresLockManager,
    RedisLockManager,
)

Awaiting = Callable[[str, int], None]


def keep_busy(threads: int) -> Callable[[], None]:
    """Occupy every thread that this process' asyncio callers have; what lets them go."""
    gate, busy = threading.Event(), threading.Semaphore(0)

    def occupy() -> None:
        busy.release()
        gate.wait(30)

    for _ in range(threads):
        backend.current().later(occupy)
    for _ in range(threads):
        assert busy.acquire(timeout=30)
    return gate.set


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("busy", [False, True])
def test_a_release_that_is_cancelled_is_carried_out(manager: LockManager, key: str, busy: bool, turns: int) -> None:
    """``busy``: no thread was free to begin with it when it was cancelled."""

    async def main() -> None:
        assert await manager.aacquire_lock(key, "a")
        let_go = keep_busy(8) if busy else lambda: None
        releasing = asyncio.create_task(manager.arelease_lock(key, "a"))
        await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        releasing.cancel()
        await asyncio.gather(releasing, return_exceptions=True)
        let_go()

    asyncio.run(main())
    assert manager.acquire_lock(key, "b", 30)
    manager.release_lock(key, "b")


def test_a_release_whose_loop_is_closed_is_carried_out(manager: LockManager, key: str) -> None:
    assert manager.acquire_lock(key, "a")
    let_go = keep_busy(8)
    loop = asyncio.new_event_loop()
    releasing = loop.create_task(manager.arelease_lock(key, "a"))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    let_go()
    assert manager.acquire_lock(key, "b", 30)
    manager.release_lock(key, "b")
    del releasing


class Interrupt(BaseException):
    pass


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_release_that_is_interrupted_is_carried_out(manager: LockManager, key: str, place: str, when: str) -> None:
    """Ctrl-C, or a time limit; ``before`` or ``after`` the table has heard of it."""
    assert manager.acquire_lock(key, "a")
    table = locks_of(manager)._table
    real = table.release

    def interrupted(*args: Any) -> bool:
        del table.release
        if when == "after":
            real(*args)
        raise Interrupt

    table.release = interrupted
    with pytest.raises(Interrupt):
        manager.release_lock(key, "a")
    assert manager.acquire_lock(key, "b", 30), place
    manager.release_lock(key, "b")


def locks_of(manager: LockManager) -> Any:
    return manager._locks()


@pytest.mark.parametrize("count", [1, 30])
def test_waiters_of_a_closed_event_loop_leave_the_line(
    manager: LockManager, key: str, await_waiting: Awaiting, count: int
) -> None:
    """Their tasks are still referred to: nothing is collected that could leave for them."""
    assert manager.acquire_lock(key, "a")
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(manager.aacquire_lock(key, f"b{number}")) for number in range(count)]
    loop.run_until_complete(asyncio.to_thread(await_waiting, key, count))
    loop.close()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(manager.acquire_lock, key, "c", 60)
        there = manager.lock_holder(key)
        assert there is not None
        manager.release_lock(key, "a")
        assert waiting.result(30)
    assert all(not task.done() for task in tasks)
    manager.release_lock(key, "c")
    assert not manager.is_locked(key)


@pytest.mark.parametrize("turns", range(1, 8))
def test_a_lock_that_is_granted_to_a_loop_that_closes_is_free(manager: LockManager, key: str, turns: int) -> None:
    loop = asyncio.new_event_loop()
    task = loop.create_task(manager.aacquire_lock(key, "a"))
    for _ in range(turns):
        loop.run_until_complete(asyncio.sleep(0))
    acquired = task.done()
    loop.close()
    if acquired:
        manager.release_lock(key, "a")
    assert manager.acquire_lock(key, "b", 60)
    manager.release_lock(key, "b")


def test_coroutines_that_the_garbage_collector_ends_leave_the_line(
    manager: LockManager, key: str, await_waiting: Awaiting
) -> None:
    """It may end them between any two steps of any thread, also of one that has taken what they need to leave."""
    for turn in range(10):
        name = f"{key}-{turn}"
        assert manager.acquire_lock(name, "a")
        loop = asyncio.new_event_loop()
        tasks = [loop.create_task(manager.aacquire_lock(name, f"b{number}")) for number in range(20)]
        loop.run_until_complete(asyncio.to_thread(await_waiting, name, 20))
        loop.close()
        del tasks
        manager.release_lock(name, "a")
        assert manager.acquire_lock(name, "c", 60)
        manager.release_lock(name, "c")


def test_nothing_watches_loops_when_no_coroutine_waits(key: str) -> None:
    async def main() -> None:
        assert await MemoryLockManager().aacquire_lock(key, "a")
        await MemoryLockManager().arelease_lock(key, "a")

    locks = locks_of(MemoryLockManager())
    asyncio.run(main())
    watch = locks._loops
    until = time.monotonic() + 30
    while watch._thread is not None:
        watch.look_now()
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.usefixtures("between_processes")
def test_who_waits_when_the_backend_is_closed_is_told_at_once(
    manager: LockManager, key: str, await_waiting: Awaiting
) -> None:
    assert manager.acquire_lock(key, "a")
    with ThreadPoolExecutor(2) as pool:
        waits = [pool.submit(manager.acquire_lock, key, f"b{number}") for number in range(2)]
        await_waiting(key, 2)
        began = time.monotonic()
        backend.use(None)
        for wait in waits:
            with pytest.raises(LockUnavailable, match="closed"):
                wait.result(30)
        assert time.monotonic() - began < 15
    assert manager.acquire_lock(key, "c", 30)
    manager.release_lock(key, "c")


@pytest.mark.usefixtures("between_processes")
def test_a_backend_that_is_dropped_takes_its_threads_along(manager: LockManager, key: str) -> None:
    """And its keeper with them: what it held is free."""
    before = set(threading.enumerate())
    dropped = Backend(backend.current().settings)
    locks = dropped.locks(_place_of(manager))
    assert locks.acquire_lock(key, "a")
    mine = set(threading.enumerate()) - before
    assert mine
    reference = weakref.ref(dropped)
    del dropped, locks
    gc.collect()
    assert reference() is None
    assert manager.acquire_lock(key, "b", 30)
    until = time.monotonic() + 30
    while left := {thread.name for thread in mine if thread.is_alive()}:
        assert time.monotonic() < until, left
        time.sleep(0.01)
    assert len(keepers_of(os.getpid())) == (1 if isinstance(manager, RedisLockManager) else 0)  # that of ``manager``
    manager.release_lock(key, "b")


def _place_of(manager: LockManager) -> LockPlace:
    """Where the locks of ``manager`` are kept."""
    if isinstance(manager, FileSystemLockManager):
        return LockPlace("files", os.path.abspath(manager.lock_files_directory))
    if isinstance(manager, RedisLockManager):
        return LockPlace("redis", manager._url())
    assert isinstance(manager, PostgresLockManager)
    return LockPlace("postgres", manager.dsn)


@pytest.mark.parametrize("how", ["returns", "raises"])
def test_a_fork_that_leaves_the_block_leaves_the_lock(manager: LockManager, key: str, how: str) -> None:
    parent, status = os.getpid(), 1

    def block() -> int | None:
        with manager.lock(key) as held:
            if (child := os.fork()) == 0:
                if how == "raises":
                    raise SystemExit
                return 0
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            return held.guard() - held.token

    try:
        status = block()
    except SystemExit:
        status = 0
    except LockLost:
        status = 2
    finally:
        if os.getpid() != parent:
            os._exit(status or 0)
    assert status == 0
    assert not manager.is_locked(key)


@pytest.mark.parametrize("timeout", ["5", float("nan"), True, [1]])
@pytest.mark.parametrize("call", ["acquire_lock", "aacquire_lock", "wait_for_lock", "await_for_lock"])
def test_a_timeout_is_a_number_of_seconds(call: str, timeout: Any) -> None:
    locks = MemoryLockManager()
    args = ("key", "me", timeout) if "acquire" in call else ("key", timeout)
    act = partial(getattr(locks, call), *args)
    with pytest.raises(ValueError, match="timeout="):
        asyncio.run(act()) if call.startswith("a") and not call.startswith("acquire") else act()
    assert not locks.is_locked("key")


@pytest.mark.parametrize("timeout", [-1, -1e300, 0])
def test_no_time_to_wait_is_no_wait(manager: LockManager, key: str, timeout: float) -> None:
    assert manager.acquire_lock(key, "a", timeout)
    assert not manager.acquire_lock(key, "b", timeout)
    assert not manager.wait_for_lock(key, timeout)
    manager.release_lock(key, "a")


@pytest.mark.parametrize("timeout", [1e9, 1e300, float("inf"), None])
def test_any_time_to_wait(manager: LockManager, key: str, timeout: float | None, await_waiting: Awaiting) -> None:
    assert manager.acquire_lock(key, "a", timeout)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(manager.acquire_lock, key, "b", timeout)
        await_waiting(key, 1)
        manager.release_lock(key, "a")
        assert waiting.result(30)
    manager.release_lock(key, "b")
