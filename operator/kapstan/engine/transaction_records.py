"""What a flow's journal holds of a transaction itself, beside the outcomes of its tasks and hooks."""

from __future__ import annotations

import time
from collections.abc import Iterable

from kapstan.engine import outages
from kapstan.engine.flow_run import FlowRun
from kapstan.engine.operations import Write
from kapstan.engine.transaction import IDENTITY, Transaction
from kapstan.ids import RunId, derived_id
from kapstan.journal import TaskOutcome

ROLLING_BACK, ROLLED_BACK, UNDONE = "RollingBack", "RolledBack", "Undone"
COMMITTING = "Committing"
"""Its key is about to be stored."""
FOUND, LOOKED = "Found", "Looked"
"""Its key was committed when its body began, or it was not."""


def looked(txn: Transaction) -> RunId:
    """Under which it is recorded what stood under the key of ``txn``."""
    return derived_id("looked", txn.run_id)


def recorded(
    flow: FlowRun,
    txn: Transaction,
    name: str,
    why: str = "",
    *,
    key: RunId = "",
    state: str = "COMPLETED",
    undone: Iterable[RunId] = (),
) -> Write:
    """What puts a record in the journal.

    Args:
        key: default: that of ``txn``.
        undone: outcomes that go with it when the flow starts over.
    """
    outcome = TaskOutcome(
        key=key or txn.run_id,
        task=IDENTITY,
        name=txn.name,
        state=state,
        state_name=name,
        message=why[:2000],
        at=time.time(),
        undone=tuple(undone),
    )
    what = outages.not_taken(txn.name)
    return Write(
        lambda: flow.written(what, lambda: flow.journal.append(outcome)),
        lambda done: outages.post(flow, outcome, done),
    )
