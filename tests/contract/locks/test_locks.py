"""What every lock manager does for callers of one process, with threads and with asyncio."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cloudpickle
import pytest

from kapstan.locking import LockLost, LockManager, MemoryLockManager, NotLockHolder

Awaiting = Callable[[str, int], None]


def test_one_holder_at_a_time(manager: LockManager, key: str) -> None:
    assert manager.acquire_lock(key, "a")
    assert manager.is_locked(key)
    assert manager.is_lock_holder(key, "a")
    assert not manager.is_lock_holder(key, "b")
    assert not manager.acquire_lock(key, "b", acquire_timeout=0)
    assert not manager.acquire_lock(key, "b", acquire_timeout=0.05)
    manager.release_lock(key, "a")
    assert not manager.is_locked(key)
    assert manager.acquire_lock(key, "b", acquire_timeout=0)
    manager.release_lock(key, "b")


def test_the_holder_who_asks_again_has_it(manager: LockManager, key: str) -> None:
    assert manager.acquire_lock(key, "a")
    token = manager.guard_lock(key, "a")
    assert manager.acquire_lock(key, "a", acquire_timeout=0)
    assert manager.guard_lock(key, "a") == token
    manager.release_lock(key, "a")
    assert not manager.is_locked(key)


def test_whoever_does_not_hold_it_cannot_give_it_back(manager: LockManager, key: str) -> None:
    with pytest.raises(NotLockHolder, match="nobody holds it"):
        manager.release_lock(key, "a")
    assert manager.acquire_lock(key, "a")
    with pytest.raises(ValueError, match="'a' holds it"):
        manager.release_lock(key, "b")
    with pytest.raises(NotLockHolder):
        manager.guard_lock(key, "b")
    assert manager.is_lock_holder(key, "a")
    manager.release_lock(key, "a")


def test_tokens_grow_with_every_grant(manager: LockManager, key: str) -> None:
    tokens: list[int] = []
    for number in range(5):
        with manager.lock(key) as held:
            tokens.append(held.guard())
            assert held.token == held.guard(), number
    assert tokens == sorted(set(tokens))


def test_it_says_who_holds_it(manager: LockManager, key: str) -> None:
    assert manager.lock_holder(key) is None
    before = time.time()
    assert manager.acquire_lock(key, "holder with spaces: ☃\n")
    there = manager.lock_holder(key)
    assert there is not None
    assert (there.holder, there.waiting) == ("holder with spaces: ☃\n", 0)
    assert before - 1 < there.since < time.time() + 1
    assert there.process.startswith("pid ")
    manager.release_lock(key, "holder with spaces: ☃\n")


def test_first_come_first_served(manager: LockManager, key: str, await_waiting: Awaiting) -> None:
    assert manager.acquire_lock(key, "first")
    served: list[int] = []

    def one(number: int) -> None:
        assert manager.acquire_lock(key, f"h{number}", 30)
        served.append(number)
        manager.release_lock(key, f"h{number}")

    with ThreadPoolExecutor(12) as pool:
        for number in range(12):
            pool.submit(one, number)
            await_waiting(key, number + 1)
        manager.release_lock(key, "first")
    assert served == list(range(12))


def test_who_does_not_wait_does_not_pass_those_who_do(manager: LockManager, key: str, await_waiting: Awaiting) -> None:
    assert manager.acquire_lock(key, "a")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(manager.acquire_lock, key, "b", 30)
        await_waiting(key, 1)
        assert not manager.acquire_lock(key, "c", acquire_timeout=0)
        manager.release_lock(key, "a")
        assert waiting.result(30)
    manager.release_lock(key, "b")


def test_whoever_gives_up_leaves_the_line(manager: LockManager, key: str, await_waiting: Awaiting) -> None:
    assert manager.acquire_lock(key, "a")
    assert not manager.acquire_lock(key, "b", acquire_timeout=0.05)
    await_waiting(key, 0)
    manager.release_lock(key, "a")
    assert not manager.is_locked(key)


def test_hold_timeout_frees_it_and_its_holder_is_told(manager: LockManager, key: str) -> None:
    began = time.monotonic()
    assert manager.acquire_lock(key, "a", hold_timeout=1.0)
    token = manager.guard_lock(key, "a")
    assert manager.acquire_lock(key, "b", 30)
    assert time.monotonic() - began > 0.9
    assert manager.guard_lock(key, "b") > token
    with pytest.raises(LockLost):
        manager.guard_lock(key, "a")
    with pytest.raises(LockLost, match="'b' holds it"):
        manager.release_lock(key, "a")
    manager.release_lock(key, "b")


def test_a_block_whose_lock_was_lost_says_so(manager: LockManager, key: str) -> None:
    def block() -> None:
        with manager.lock(key, hold_timeout=0.1):
            assert manager.wait_for_lock(key, 30)

    with pytest.raises(LockLost):
        block()


def test_waiting_for_a_release(manager: LockManager, key: str) -> None:
    assert manager.wait_for_lock(key, 0)
    assert manager.acquire_lock(key, "a")
    assert not manager.wait_for_lock(key, 0.05)
    with ThreadPoolExecutor(3) as pool:
        waits = [pool.submit(manager.wait_for_lock, key, 30) for _ in range(3)]
        time.sleep(0.05)
        manager.release_lock(key, "a")
        assert [wait.result(30) for wait in waits] == [True] * 3
    assert not manager.is_locked(key)


@pytest.mark.parametrize("name", ["k" * 100_000, "schlüssel ☃ 🔑", "a/../b\0c\nd:*{x}"])
def test_any_text_is_a_key(manager: LockManager, name: str) -> None:
    assert manager.acquire_lock(name, "a")
    assert not manager.acquire_lock(f"{name}x", "a", 0) or manager.release_lock(f"{name}x", "a") is None
    assert manager.is_lock_holder(name, "a")
    manager.release_lock(name, "a")
    assert not manager.is_locked(name)


@pytest.mark.parametrize(
    ("name", "holder", "hold"), [("", "a", None), ("k", "", None), ("k", "a", 0.0), ("k\ud800", "a", None)]
)
def test_what_cannot_be_a_lock_is_refused(manager: LockManager, name: str, holder: str, hold: float | None) -> None:
    with pytest.raises(ValueError, match=r"(key|holder|hold_timeout)="):
        manager.acquire_lock(name, holder, hold_timeout=hold)


def test_a_manager_is_a_plain_value(manager: LockManager) -> None:
    for pickler in (pickle, cloudpickle):
        assert pickle.loads(pickler.dumps(manager)) == manager
    assert hash(manager) == hash(pickle.loads(pickle.dumps(manager)))


def test_the_loop_runs_on_while_a_coroutine_waits(manager: LockManager, key: str) -> None:
    async def main() -> int:
        assert await manager.aacquire_lock(key, "a")
        waiting = asyncio.create_task(manager.aacquire_lock(key, "b", 30))
        turns = 0
        while (there := await asyncio.to_thread(manager.lock_holder, key)) is None or not there.waiting:
            turns += 1
            await asyncio.sleep(0)
        await manager.arelease_lock(key, "a")
        assert await waiting
        assert await manager.aguard_lock(key, "b") > 0
        looking = asyncio.create_task(manager.await_for_lock(key, 30))
        await asyncio.sleep(0.05)
        await manager.arelease_lock(key, "b")
        assert await looking
        return turns

    assert asyncio.run(main()) > 0


def test_a_cancelled_coroutine_leaves_the_line(manager: LockManager, key: str, await_waiting: Awaiting) -> None:
    async def main() -> None:
        assert await manager.aacquire_lock(key, "a")
        waiting = [asyncio.create_task(manager.aacquire_lock(key, f"b{number}", 30)) for number in range(20)]
        await asyncio.to_thread(await_waiting, key, 20)
        for task in waiting[:19]:
            task.cancel()
        await asyncio.to_thread(await_waiting, key, 1)
        await manager.arelease_lock(key, "a")
        assert await waiting[19]
        await manager.arelease_lock(key, "b19")

    asyncio.run(main())
    assert not manager.is_locked(key)


@pytest.mark.parametrize("turns", range(6))
def test_a_coroutine_that_is_cancelled_at_once_holds_nothing(manager: LockManager, key: str, turns: int) -> None:
    async def main() -> None:
        task = asyncio.create_task(manager.aacquire_lock(key, "a", 30))
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.done():
            await manager.arelease_lock(key, "a")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    assert manager.acquire_lock(key, "b", 30)
    manager.release_lock(key, "b")


def test_two_calls_of_one_holder_have_it_together(manager: LockManager, key: str, await_waiting: Awaiting) -> None:
    assert manager.acquire_lock(key, "a")
    together = threading.Barrier(2)

    def one() -> None:
        assert manager.acquire_lock(key, "b", 30)
        together.wait(30)

    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(one) for _ in range(2)]
        await_waiting(key, 2)
        manager.release_lock(key, "a")
        for call in calls:
            call.result(30)
    manager.release_lock(key, "b")


def test_thousands_of_keys_leave_nothing(manager: LockManager, place: str, key: str) -> None:
    many = 2000 if place in ("memory", "redis") else 300
    for number in range(many):
        assert manager.acquire_lock(f"{key}-{number}", "a")
    for number in range(many):
        manager.release_lock(f"{key}-{number}", "a")
    assert not any(manager.is_locked(f"{key}-{number}") for number in (0, many // 2, many - 1))


def test_no_holder_of_many_in_turn_loses_it(manager: LockManager, place: str, key: str) -> None:
    """A message of a grant may come when its call has long begun to give the lock back."""
    rounds = 3 if place == "postgres" else 20

    def one(number: int) -> int:
        for turn in range(rounds):
            assert manager.acquire_lock(key, f"h{number}-{turn}", 60)
            manager.release_lock(key, f"h{number}-{turn}")
        return rounds

    with ThreadPoolExecutor(40) as pool:
        assert sum(pool.map(one, range(40))) == 40 * rounds
    assert not manager.is_locked(key)


@pytest.mark.parametrize("hold", [0, -1, float("nan"), float("inf"), 1e300, "5"])
def test_a_hold_timeout_is_a_number_of_seconds(hold: Any) -> None:
    with pytest.raises(ValueError, match="hold_timeout="):
        MemoryLockManager().acquire_lock("key", "me", 0, hold)


def test_a_wait_of_nan_seconds_is_refused() -> None:
    with pytest.raises(ValueError, match="acquire_timeout="):
        MemoryLockManager().acquire_lock("key", "me", float("nan"))
