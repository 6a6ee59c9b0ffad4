"""The flows that the tests of this folder break off. Effects go to the file ``SINK``, fsynced line by line.

``gate`` tells the test, through the fifo ``REACHED``, that the flow stands there, and waits for ever; where
``REACHED`` is not set it lets pass.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from typing import Any

from kapstan import flow, task


def effect(what: str) -> None:
    with open(os.environ["SINK"], "a") as sink:
        sink.write(f"{what}\n")
        sink.flush()
        os.fsync(sink.fileno())


def closed() -> bool:
    return bool(os.environ.get("REACHED"))


def reached() -> None:
    with open(os.environ["REACHED"], "w") as fifo:
        fifo.write(f"{os.getpid()}\n")


def gate() -> None:
    if closed():
        reached()
        while True:  # not signal.pause(): a signal that comes just before it wakes nobody
            time.sleep(0.05)


@task
def step(x: int) -> int:
    effect(f"step {x}")
    return x + 1


@task
def risky(x: int) -> int:
    effect(f"risky {x}")
    raise ValueError(f"refused {x}")


@task
async def astep(x: int) -> int:
    effect(f"astep {x}")
    return x + 1


@task
async def late(x: int) -> int:
    while closed():
        await asyncio.Event().wait()
    effect(f"late {x}")
    return x + 1


@flow
def loop() -> int:
    total = 0
    for i in range(6):
        if i == 3:
            gate()
        total += step(1)
    return total


@flow
async def gather() -> list[int]:
    first = [asyncio.ensure_future(astep(1)) for _ in range(3)]
    rest = [asyncio.ensure_future(late(1)) for _ in range(3)]
    results = await asyncio.gather(*first)
    if closed():
        await asyncio.to_thread(reached)
    return [*results, *await asyncio.gather(*rest)]


@flow
def caught() -> list[Any]:
    seen: list[Any] = [step(1)]
    try:
        seen.append(risky(2))
    except ValueError as error:
        seen.append(str(error))
        seen.append(step(3))
    gate()
    return [*seen, step(4), step(5), step(6)]


@flow
def nested() -> int:
    return inner(1) + inner(1)


@flow
def inner(x: int) -> int:
    a = step(x)
    gate() if os.environ.get("INNER") == "1" and closed() else None
    os.environ["INNER"] = "1"
    return a + step(x + 10)


@flow
def unstored() -> int:
    """What its subflows return is nowhere: one keeps its result back, the other's cannot be serialised."""
    total = kept_back(1)
    with locked(2):
        gate()
    return total + step(3)


@flow(persist_result=False)
def kept_back(x: int) -> int:
    return step(x)


@flow
def locked(x: int) -> Any:
    step(x)
    return threading.Lock()


@flow
def submitted() -> list[int]:
    first = step.map([1, 1, 2]).result()
    gate()
    return [*first, *step.map([1, 3]).result()]


@flow
def deaf() -> None:
    """Holds on to its process: SIGTERM is swallowed by its own code, once."""
    try:
        gate()
    except BaseException:  # noqa: BLE001  (the user's mistake that is tested)
        effect("swallowed")
    step(1)


@flow(retries=1)
def failing(n: int) -> int:
    step(1)
    if threading.current_thread() is threading.main_thread():
        raise ValueError(f"no {n}")
    return n


@flow
def given(items: list[str], note: str, limit: int | None = 1, customer: str = "nobody") -> None:
    effect(json.dumps({"items": items, "note": note, "limit": limit, "customer": customer}))


if __name__ == "__main__":
    print(loop())
