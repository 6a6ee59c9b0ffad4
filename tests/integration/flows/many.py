"""A flow of very many tasks, which says how many of them it executed and when it had all results."""

from __future__ import annotations

import asyncio
import json
import os
import time

from tests.integration.flows.shapes import effect, gate

from kapstan import flow, task

executed = 0


@task(name="many.one")
async def one(number: int) -> int:
    global executed
    executed += 1
    return number + 1


@flow(name="many")
async def many(count: int, wide: int) -> int:
    """``count`` tasks, ``wide`` at once."""
    total = 0
    for first in range(0, count, wide):
        total += sum(await asyncio.gather(*(one(number) for number in range(first, first + wide))))
    effect(json.dumps([executed, time.monotonic()]))
    if os.environ["REACHED"]:
        await asyncio.to_thread(gate)
    return total
