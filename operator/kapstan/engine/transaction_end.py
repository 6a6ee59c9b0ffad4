"""How a transaction begins and ends: steps, for ``with`` and ``async with`` alike (see ``operations``)."""

from __future__ import annotations

import asyncio

from kapstan.context import current_flow
from kapstan.engine import branch, limits
from kapstan.engine.control_flow import ends_the_caller
from kapstan.engine.flow_run import FlowRun
from kapstan.engine.limits import TimeUp
from kapstan.engine.operations import Steps, Wait
from kapstan.engine.steps import transaction_key
from kapstan.engine.steps.hooks import commit, rollback
from kapstan.engine.transaction import IDENTITY, Transaction, TransactionState, logger
from kapstan.engine.transaction_records import COMMITTING, ROLLED_BACK, ROLLING_BACK
from kapstan.errors import TransactionRolledBack
from kapstan.ids import RunId


def begin(txn: Transaction) -> Steps[None]:
    """Give it its place in the flow run, read what an earlier attempt decided, and look whether its key is committed.

    Raises:
        BackendError: the storage of its key, or the service that keeps its lock, is away; nothing has begun.
    """
    flow: FlowRun | None = current_flow.get()
    line = branch.here() if flow is not None else None
    inside: RunId | None = None
    if flow is not None and line is not None:
        flow.check_stopped(line)
        place, inside = line.place(IDENTITY, {}), line.task
        txn.run_id = place.key
        decided = flow.memo.take(place.key, inside)
        if decided is not None and decided.state_name in (ROLLING_BACK, ROLLED_BACK):
            txn.doomed, txn.decided = decided.message, True
        txn.committing = decided is not None and decided.state_name == COMMITTING
        txn.in_task = inside is not None
    yield from transaction_key.look(txn, inside)
    if txn.state is TransactionState.PENDING:
        txn.state = TransactionState.ACTIVE


def goes_on_later(error: BaseException | None) -> bool:
    """Whether ``error`` ends this attempt of a flow run and not the run: the next one goes on with the body."""
    flow: FlowRun | None = current_flow.get()
    if flow is None or error is None:
        return False
    if flow.stopped is not None:
        return True
    if isinstance(error, GeneratorExit):  # the code has closed a generator: its body is not gone on with
        return False
    over = isinstance(error, TimeUp) or limits.remaining() == 0.0
    cancelled = isinstance(error, asyncio.CancelledError)  # by other code: the flow itself would be stopped
    return ends_the_caller(error) and not over and not cancelled


def leave(txn: Transaction, error: BaseException | None) -> Steps[None]:
    """The body has ended, with ``error`` if it raised.

    Raises:
        TransactionRolledBack: the body did not raise, and an earlier attempt had begun to roll it back.
        Parked: a rollback hook failed, in a flow.
    """
    while waited_for := txn.submitted:
        yield Wait(waited_for)
    if txn.state is not TransactionState.ACTIVE:  # the code has decided
        return
    if error is not None or txn.doomed:
        yield from rollback(txn, txn.doomed or f"{type(error).__name__}: {error}")
        if error is None and txn.decided:
            raise TransactionRolledBack(f"an earlier attempt of this run has rolled the {txn.name} back: {txn.doomed}")
        if error is None:
            logger.warning("The %s is rolled back: %s", txn.name, txn.doomed)
    elif txn.commit_mode == "OFF":
        yield from rollback(txn, "it was not committed")
    elif txn.parent is None or txn.commit_mode == "EAGER":
        yield from commit(txn)
    else:
        txn.parent.add(txn)
