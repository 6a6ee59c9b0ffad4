"""Transactions with a key in asyncio: nobody who waits for the lock of a key stops the event loop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kapstan.locking import MemoryLockManager
from kapstan.results import ResultStore
from kapstan.transactions import transaction


@pytest.fixture
def locking() -> ResultStore:
    return ResultStore(lock_manager=MemoryLockManager())


def test_in_asyncio_it_waits_without_holding_the_loop(locking: ResultStore) -> None:
    async def one(who: str) -> Any:
        async with transaction("async", locking, isolation_level="SERIALIZABLE") as txn:
            if txn.is_committed():
                return "found"
            await asyncio.sleep(0)
            txn.stage(who)
            return who

    async def main() -> list[Any]:
        return await asyncio.gather(*(one(who) for who in ("ada", "bob", "cyd")))

    assert sorted(asyncio.run(main())) == ["ada", "found", "found"]


def test_in_asyncio_the_value_is_read_while_another_coroutine_has_the_lock(locking: ResultStore) -> None:
    async def first() -> Any:
        async with transaction("async", locking, isolation_level="SERIALIZABLE") as txn:
            txn.stage("ada")
        assert locking.acquire_lock("async", "another", 0), "who has it would have to run to give it back"
        now, later = txn.read(), asyncio.create_task(txn.aread())
        locking.release_lock("async", "another")
        return now, await later

    now, later = asyncio.run(first())
    assert (now.result, later.result) == ("ada", "ada")


def test_in_asyncio_who_waits_for_a_value_does_not_hold_the_loop(locking: ResultStore) -> None:
    async def first(entered: asyncio.Event) -> None:
        async with transaction("async", locking, isolation_level="SERIALIZABLE") as txn:
            entered.set()
            for _ in range(100):
                await asyncio.sleep(0)
            txn.stage("ada")

    async def main() -> Any:
        entered = asyncio.Event()
        before = asyncio.create_task(first(entered))
        await entered.wait()
        async with transaction("async", locking, isolation_level="READ_COMMITTED") as txn:
            found = await txn.aread()
        await before
        return found

    assert asyncio.run(main()).result == "ada"
