"""A flow of 50 tasks of every kind, and processes that execute an attempt of it and are killed at a point of it.

A *point* is before or after an append to the journal, before or after a call of the store, or a moment in the code of a
task or hook. Points are counted as they come; ``KILL`` names the number of one. An effect is a line in a file outside
of everything, on the disk before the code goes on.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from kapstan import flow, task, unmapped
from kapstan.cache_policies import INPUTS
from kapstan.context import get_run_context
from kapstan.ids import RunId
from kapstan.locking import FileSystemLockManager
from kapstan.results import ResultStore
from kapstan.store.local import LocalStore
from kapstan.store.local_log import LocalLog
from kapstan.store.s3 import S3Store
from kapstan.store.segments import SegmentLog
from kapstan.transactions import Transaction, get_transaction, transaction
from kapstan.worker import flow_process
from kapstan.worker.flow_process import Attempt

WIDE = 8
"""Most calls that are under way at once."""

# ---------------------------------------------------------------------------------------------- points

_points = 0
_lock = threading.Lock()


def point(kind: str) -> None:
    """The process is killed here if this is the point that ``KILL`` names; ``POINTS`` gets a line for each one."""
    global _points
    with _lock:
        _points += 1
        here = _points == int(os.environ.get("KILL", "0"))
        if here or os.environ.get("KILL") is None:
            write(os.environ["POINTS"], kind)
        if here:
            os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait()


def write(path: str, line: str) -> None:
    """Append ``line``, in one write that is on the disk when this returns."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{line}\n".encode())
        os.fsync(file)
    finally:
        os.close(file)


def watch(kind: Any, *names: str) -> None:
    for name in names:
        setattr(kind, name, _watched(f"{kind.__name__}.{name}", getattr(kind, name)))


def _watched(name: str, call: Any) -> Any:
    def watched(*args: Any, **kwargs: Any) -> Any:
        point(f"before {name}")
        answer = call(*args, **kwargs)
        point(f"after {name}")
        return answer

    return watched


# ---------------------------------------------------------------------------------------------- effects


def effect(kind: str, what: object, key: str = "") -> None:
    """Do it: of class ``kind``, known to its receiver by ``key``."""
    point("before an effect")
    write(os.environ["SINK"], json.dumps([kind, str(what), key]))
    point("after an effect")


def effects() -> list[list[str]]:
    """[kind, what, key] of each."""
    return [json.loads(line) for line in Path(os.environ["SINK"]).read_text().splitlines()]


@task(name="order.count")
def count(number: int) -> int:
    effect("pure", f"count {number}")
    return number + 1


@task(name="order.square")
async def square(number: int) -> int:
    effect("wide", f"square {number}")
    await asyncio.sleep(0)
    point("in asyncio")
    return number * number


@task(name="order.label", cache_policy=INPUTS)
def label(order: str, number: int) -> str:
    effect("wide", f"label {number}")
    return f"label {number}"


def paid(key: str) -> Any:
    """Of a payment in doubt: the bank knows its key, or the payment did not happen."""
    return next((what for _, what, known in effects() if known == key), False)


@task(name="order.pay", cache_policy=INPUTS, effect="at_most_once", probe=paid, effect_horizon=0.0)
def pay(order: str, part: str) -> str:
    run = get_run_context()
    run.guard()
    effect("once", f"pay {part}", run.idempotency_key)
    return f"pay {part}"


@task(name="order.pay-by-hand", cache_policy=INPUTS, effect="at_most_once", effect_horizon=0.0)
def pay_by_hand(order: str, part: str) -> str:
    """Nobody can be asked but a person."""
    effect("once", f"pay {part}", get_run_context().idempotency_key)
    return f"pay {part}"


@task(name="order.book", cache_policy=INPUTS, effect="idempotent")
def book(order: str, part: str) -> str:
    effect("idempotent", f"book {part}", get_run_context().idempotency_key)
    return part


@task(name="order.reserve")
def reserve(part: str) -> str:
    effect("pure", f"reserve {part}")
    txn = get_transaction()
    assert txn is not None
    txn.set("number", f"number of {part}")
    return part


@reserve.on_rollback
def free(txn: Transaction) -> None:
    effect("hook", f"free {txn.result} by {txn.get('number')}")


@reserve.on_commit
def confirm(txn: Transaction) -> None:
    effect("hook", f"confirm {txn.result} by {txn.get('number')}")


@task(name="order.ship", retries=1)
def ship(van: bool) -> str:
    effect("pure", f"ship {van}")
    if not van:
        raise RuntimeError("no van")
    return "shipped"


def is_held(key: str) -> Any:
    """Of a hold in doubt: it was made, and not let go since."""
    lines = [(kind, what) for kind, what, known in effects() if known == key]
    return lines[-1][1] if lines and lines[-1][0] == "once" else False


@task(name="order.hold", cache_policy=INPUTS, effect="at_most_once", probe=is_held, effect_horizon=0.0)
def hold(order: str, what: str) -> str:
    key = get_run_context().idempotency_key
    effect("once", f"hold {what}", key)
    return f"hold {what}"


@hold.on_rollback
def let_go(txn: Transaction) -> None:
    what = txn.parameters["what"]
    held = [key for kind, done, key in effects() if kind == "once" and done == f"hold {what}"]
    effect("hook", f"let go {what}", held[-1])


def berth(order: str) -> transaction:
    """Only one at a time has it, and it is had once."""
    store = ResultStore(lock_manager=FileSystemLockManager(os.environ["LOCKS"]))
    return transaction(f"berths/{order}", store, isolation_level="SERIALIZABLE")


@flow(name="order-part")
async def part(order: str, name: str) -> list[str]:
    counted = [count(number) for number in (1, 1, 2)]
    return [book(order, name), *map(str, counted)]


@flow(name="order")
async def order(name: str) -> list[Any]:
    """10 + 2 * 4 + 8 + 6 + 6 + 4 + 3 + 3 + 2 tasks."""
    seen: list[Any] = [count(1) + number for number in range(10)]
    seen.append([await part(name, "left"), await part(name, "right")])
    seen.append(await asyncio.gather(*(square(3) for _ in range(WIDE - 3)), *(square(number) for number in range(3))))
    seen.append(label.map(unmapped(name), [1, 2, 3, 4, 5, 5]).result())
    for places in (("aisle", "window"), ("deck",)):
        try:
            async with transaction():
                for place in places:
                    reserve(place)
                    book(name, place)
                hold(name, "ship")  # again in the next round, since this one is undone
                ship(False)
        except RuntimeError as error:
            seen.append(str(error))
    for _ in range(2):
        with berth(name) as txn:
            if not txn.is_committed():
                txn.stage([reserve("berth"), pay(name, "berth"), ship(True)])
        record = txn.read()
        assert record is not None
        seen.append(record.result)
    seen.append([pay(name, "fee"), pay_by_hand(name, "tip"), pay(name, "fee")])
    seen.append([count(8), count(9)])
    return seen


# ---------------------------------------------------------------------------------------------- processes


def serve() -> None:
    """Fork a supervisor for each line of the input, ``[run id, attempt, name, KILL]``; print its exit code.

    It does what ``kapstan run`` does, in a process that has imported everything. KILL 0: it is not killed; null: nor
    that, and its points are told.
    """
    for journal in (LocalLog, SegmentLog):
        watch(journal, "open", "append")
    for store in (LocalStore, S3Store):
        watch(store, "get", "put", "create", "create_version", "replace")
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                execute(*json.loads(line))
            finally:
                os._exit(99)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def execute(run_id: RunId, number: int, name: str, kill: int | None) -> None:
    """An attempt; this process ends with it."""
    if kill is not None:
        os.environ["KILL"] = str(kill)
    os.dup2(2, 1)  # what it prints is no answer
    flow_process.execute(Attempt(run_id, number, f"{__file__}:order"), lambda: (order.spec, {"name": name}))


if __name__ == "__main__":
    from tests.integration.flows import order as module  # under its own name, which its tasks have

    module.serve()
