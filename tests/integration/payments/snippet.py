"""The payment task as the durability page prints it, with the lock manager that the test names; and callers of it.

``python -m tests.integration.payments.snippet CALLERS KIND`` calls it so often at once and prints each result.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kapstan import task
from kapstan.cache_policies import INPUTS

lock_manager = pickle.loads(base64.b64decode(os.environ["KAPSTAN_TEST_LOCK_MANAGER"]))


def charge(order: str, amount: int) -> dict[str, Any]:
    """The effect: a line in a file outside of the system, on the disk before it is reported."""
    ledger = os.open(os.environ["KAPSTAN_TEST_LEDGER"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        time.sleep(0.05)
        os.write(ledger, f"{order} {amount} {os.getpid()}\n".encode())
        os.fsync(ledger)
    finally:
        os.close(ledger)
    return {"order": order, "amount": amount, "by": os.getpid(), "at": time.time()}


@task(cache_policy=INPUTS.configure(lock_manager=lock_manager))
def charge_card(order: str, amount: int) -> dict[str, Any]:
    return charge(order, amount)


@task(cache_policy=INPUTS.configure(lock_manager=lock_manager))
async def charge_card_async(order: str, amount: int) -> dict[str, Any]:
    await asyncio.sleep(0)
    return charge(order, amount)


def main() -> None:
    callers, kind, order = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    if kind == "sync":
        with ThreadPoolExecutor(callers) as pool:
            results = list(pool.map(lambda _: charge_card(order, 100), range(callers)))
    else:

        async def all_of_them() -> list[dict[str, Any]]:
            return list(await asyncio.gather(*[charge_card_async(order, 100) for _ in range(callers)]))

        results = asyncio.run(all_of_them())
    for result in results:
        print(json.dumps(result, sort_keys=True))


if __name__ == "__main__":
    main()
