"""A flow that undoes what it did; its process kills itself at the append to the journal that the environment names."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

from kapstan import flow, task
from kapstan.store.local_log import LocalLog
from kapstan.store.segments import SegmentLog
from kapstan.transactions import Transaction, get_transaction, transaction

appends = 0


def told(line: str) -> None:
    with open(os.environ["SINK"], "a", buffering=1) as sink:
        sink.write(f"{line}\n")
        os.fsync(sink.fileno())


def killed_at(kind: Any) -> None:
    append = kind.append

    def watched(self: Any, records: Sequence[bytes]) -> None:
        global appends
        appends += 1
        when = os.environ.get("KILL", "")
        if when == f"before {appends}":
            os.kill(os.getpid(), signal.SIGKILL)
        append(self, records)
        told(f"append {appends}")
        if when == f"after {appends}":
            os.kill(os.getpid(), signal.SIGKILL)

    kind.append = watched


killed_at(LocalLog)
killed_at(SegmentLog)


@task(name="saga.charge")
def charge(who: str) -> str:
    told(f"charge {who}")
    found = get_transaction()
    assert found is not None
    found.set("receipt", f"receipt of {who}")
    return who


@charge.on_rollback
def refund(txn: Transaction) -> None:
    told(f"refund {txn.result} by {txn.get('receipt')}")


@charge.on_commit
def confirm(txn: Transaction) -> None:
    told(f"confirm {txn.result} by {txn.get('receipt')}")


@task(name="saga.ship")
def ship(fails: bool) -> None:
    told("ship")
    if fails:
        raise RuntimeError("no van")


@task(name="saga.report")
def report(how: str) -> str:
    told(f"report {how}")
    return how


@flow
def saga(fails: bool) -> str:
    try:
        with transaction():
            charge("ada")
            charge("bob")
            ship(fails)
    except RuntimeError as error:
        return report(str(error))
    return report("shipped")
