"""Ctrl-C where a transaction begins or ends: its lock is given back, and nobody is in it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kapstan.locking import MemoryLockManager
from kapstan.results import ResultStore
from kapstan.transactions import Transaction, get_transaction, transaction

STORE = ResultStore(lock_manager=MemoryLockManager())


def plain() -> None:
    with transaction("orders/7", STORE, isolation_level="SERIALIZABLE"):
        pass


def in_asyncio() -> None:
    async def main() -> None:
        async with transaction("orders/7", STORE, isolation_level="SERIALIZABLE"):
            pass

    asyncio.run(main())


def interrupted(*_: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("run", [plain, in_asyncio])
@pytest.mark.parametrize(("of", "name"), [(transaction, "_begun"), (transaction, "_left"), (Transaction, "ended")])
def test_the_lock_is_given_back(
    run: Callable[[], None], of: type[Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(of, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert get_transaction() is None
    assert STORE.acquire_lock("orders/7", "another", 0)
    STORE.release_lock("orders/7", "another")
    run()
