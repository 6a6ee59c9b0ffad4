"""The key of a transaction: looked for before its body, stored when it is committed. In a flow the journal keeps what
was found, so that a later attempt goes the same way."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from kapstan.context import current_flow
from kapstan.engine import outages
from kapstan.engine.flow_run import FlowRun
from kapstan.engine.operations import Do, Steps
from kapstan.engine.transaction import Transaction, TransactionState
from kapstan.engine.transaction_key import Lock, TransactionKey
from kapstan.engine.transaction_records import COMMITTING, FOUND, LOOKED, looked, recorded
from kapstan.ids import RunId

T = TypeVar("T")


def look(txn: Transaction, inside: RunId | None) -> Steps[None]:
    """Before its body: whether its key is committed already.

    Args:
        inside: the task run that it is in, None for a flow.
    """
    key, flow = txn.keyed, _flow_of(txn)
    if key is None:
        return
    known = None if flow is None else flow.memo.take(looked(txn), inside)
    if known is not None and known.state_name == FOUND:
        _found(txn)
        return
    try:
        if key.is_serializable:
            yield Lock(key)
        if txn.committing or txn.decided:
            return
        if key.overwrite:
            key.check_name()
            return
        there = yield Do(_answered, flow, key, key.exists)
        if known is None and flow is not None:
            yield recorded(flow, txn, FOUND if there else LOOKED, key=looked(txn))
    except BaseException:
        key.free()
        raise
    if known is not None:
        if there and key.is_serializable:
            txn.doomed, txn.decided = f"another run has committed its key {key.key!r} meanwhile", True
    elif there:
        _found(txn)
        yield Do(key.free)


def _found(txn: Transaction) -> None:
    txn.found, txn.state = True, TransactionState.COMMITTED


def keep(txn: Transaction) -> Steps[None]:
    """It is committed: store the keys of all that is in it.

    Raises:
        LockLost, SerializationError, ValueTooLarge, ConfigurationError: one cannot be stored.
        BackendError: the storage is away, outside of a flow; a flow waits.
    """
    keyed = [(member, member.keyed) for member in txn.members() if member.keyed is not None]
    due = [(member, key) for member, key in keyed if member.state is not TransactionState.COMMITTED]
    if len(due) > 1 and not any(member.committing for member, _ in due):
        for member, key in due:  # all of them, before the first is stored
            yield Do(_answered, _flow_of(member), key, partial(key.check, member.result))
    for member, key in due:
        flow = _flow_of(member)
        if flow is not None and not member.committing:
            yield recorded(flow, member, COMMITTING)
        yield Do(_answered, flow, key, partial(key.keep, member.result))


def free(txn: Transaction) -> None:
    """Give the locks of all that is in it back."""
    for member in txn.members():
        if member.keyed is not None:
            member.keyed.free()


def _flow_of(txn: Transaction) -> FlowRun | None:
    """The flow run whose journal has it."""
    flow: FlowRun | None = current_flow.get()
    return flow if txn.run_id else None


def _answered(flow: FlowRun | None, key: TransactionKey, ask: Callable[[], T]) -> T:
    return ask() if flow is None else outages.waited_for(flow, f"The storage of key {key.key!r} is away", ask)
