"""Hooks: what is called when a transaction is committed or undone, and what the journal of its flow run is told.

A record in the journal says that a rollback has begun, before its first hook: whatever a later attempt of the run does
in the transaction, it goes on with the rollback. A second one says that all hooks are through; with it go the outcomes
of what was undone, as soon as the flow starts over.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from kapstan import settings, specs
from kapstan.context import TaskRun, current_flow
from kapstan.engine import branch, outages, transaction_records
from kapstan.engine.execution import Ledger, TaskExecution
from kapstan.engine.flow_run import FlowRun
from kapstan.engine.functions import asettled, runs_async, settled
from kapstan.engine.operations import Do, Steps
from kapstan.engine.steps import transaction_key
from kapstan.engine.steps.call import call
from kapstan.engine.steps.commit import commit as kept
from kapstan.engine.steps.replay import replay
from kapstan.engine.transaction import IDENTITY, Due, Hook, Transaction, TransactionState, current, logger
from kapstan.engine.transaction_records import recorded
from kapstan.errors import BackendError, CancelRun, HandBack, KapstanError, Parked
from kapstan.ids import RunId, derived_id, new_id
from kapstan.ports import Entry
from kapstan.specs import TaskSpec, prints_are_lines

T = TypeVar("T")


def commit(txn: Transaction) -> Steps[None]:
    """Store its key, and call the hooks for a commit. One that raises is logged; the others are called all the same.

    Raises:
        LockLost, SerializationError, ValueTooLarge, ConfigurationError: its key cannot be stored; it was rolled back.
        BackendError: the storage of its key is away, outside of a flow: it is neither committed nor rolled back, since
            nobody knows whether the key is there.
    """
    try:
        yield from transaction_key.keep(txn)
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, BackendError):
            yield from rollback(txn, f"its key cannot be stored: {error}")
        transaction_key.free(txn)
        raise
    hooks = list(txn.due("commit"))
    txn.ended(TransactionState.COMMITTED)
    try:
        for due in hooks:
            yield from _called(txn, due)
    finally:
        transaction_key.free(txn)


def rollback(txn: Transaction, why: str) -> Steps[None]:
    """Call the hooks for a rollback, each of them.

    Raises:
        Parked: one of them failed, in a flow: the run waits for a person, and a resume calls it again.
    """
    try:
        yield from _rolled_back(txn, why)
    finally:
        transaction_key.free(txn)


def _rolled_back(txn: Transaction, why: str) -> Steps[None]:
    hooks = list(txn.due("rollback"))
    members = list(txn.members())
    keyed = [member for member in members if member.undoable is not None and not member.is_committed()]
    looks = [transaction_records.looked(member) for member in members if member.keyed is not None and member.run_id]
    txn.ended(TransactionState.ROLLED_BACK)
    if txn.parent is not None and not txn.parent.doomed:
        txn.parent.doomed = f"{txn.name} in it was rolled back: {why}"
    if not hooks and not looks:
        return
    flow: FlowRun | None = current_flow.get()
    flow = flow if txn.run_id else None
    found: list[tuple[Transaction, Entry]] = []
    if keyed:
        found = yield Do(_answered, flow, partial(_found, keyed), found)
    if flow is not None:
        yield recorded(flow, txn, transaction_records.ROLLING_BACK, why)
    failed: list[str] = []
    failing: set[Transaction] = set()
    for due in hooks:
        error = yield from _called(txn, due)
        if error is not None:
            failing.add(due.of)
            failed.append(f"{due.label.partition(' ')[2].partition(' ')[2]} of {due.of.name}: {error}")
    if flow is not None and failed:
        raise flow.stop(Parked(f"a rollback is not complete ({why}). Its hook {'; '.join(failed)}"))
    if flow is not None and (lost := [member.name for member in members if member.was_completed]):
        raise flow.stop(
            Parked(
                f"a rollback is not complete ({why}). The result of {lost[0]} could not be stored, so this attempt "
                "cannot find what the transaction did after it: look whether there is something to undo"
            )
        )
    for member, entry in found:
        assert member.undoable is not None
        if member not in failing:
            yield Do(_answered, flow, partial(member.undoable.release, entry, why), None)
    if flow is None:
        return
    undone = [member.run_id for member in members if member.run_id] + [_key(txn, due) for due in hooks] + looks
    if txn.in_task:
        flow.memo.forget(undone)
    name = transaction_records.UNDONE if txn.in_task else transaction_records.ROLLED_BACK
    yield recorded(flow, txn, name, why, state="FAILED", undone=undone)


def _found(keyed: list[Transaction]) -> list[tuple[Transaction, Entry]]:
    """Those of ``keyed`` whose register still has their commit, with what stands there."""
    entries = [(member, member.undoable.found()) for member in keyed if member.undoable is not None]
    return [(member, entry) for member, entry in entries if entry is not None]


def _answered(flow: FlowRun | None, ask: Callable[[], T], otherwise: T) -> T:
    """``ask()``; a flow waits for a store that is away. What cannot be read or written stays done for its key."""
    try:
        if flow is None:
            return ask()
        return outages.waited_for(flow, "The register of what is undone cannot be reached", ask)
    except KapstanError as error:
        logger.warning("What was undone stays done for its key: %s", error)
        return otherwise


# ---------------------------------------------------------------------------------------------- hooks


def _key(txn: Transaction, due: Due) -> RunId:
    return derived_id("hook", txn.hooks_of or txn.run_id, due.of.run_id, due.label) if txn.run_id else new_id()


def _called(txn: Transaction, due: Due) -> Steps[BaseException | None]:
    """Call one hook as a task of the flow, whose journal has its outcome before the next one is called.

    Gives what the hook raised, or None.
    """
    flow: FlowRun | None = current_flow.get()
    line = branch.here()
    spec = _spec(due)
    run = TaskRun(
        _key(txn, due),
        spec.name,
        1,
        {},
        flow_run_id=None if flow is None else flow.run_id,
        log_prints=prints_are_lines(None, settings.current().log_prints if flow is None else flow.log_prints),
    )
    ledger = Ledger() if flow is None or line is None else flow
    execution = TaskExecution(spec, (due.of,), {}, (), run, ledger, "", None if line is None else line.task)
    mark = current.set(None)
    try:
        state = yield from replay(execution, lambda run: kept(run, call))
    except (KeyboardInterrupt, HandBack, CancelRun) as error:
        if flow is None or flow.on_stop is None or flow.stopped is not None:
            raise
        return error  # of the hook itself: a signal would have been noted
    finally:
        current.reset(mark)
    if state.is_completed():
        return None
    error = state.result(raise_on_failure=False)
    logger.error("Hook %s of %s failed", spec.name, due.of.name, exc_info=error)
    return error


def _spec(due: Due) -> TaskSpec:
    name = getattr(due.hook, "__name__", type(due.hook).__name__)
    return TaskSpec(
        identity=f"{IDENTITY}.{name}",
        name=name,
        fn=_quiet(due.hook),
        is_async=runs_async(due.hook),
        signature=specs.signatures_of(_quiet(due.hook))[0],
    )


def _quiet(hook: Hook) -> Any:
    """``hook``, whose result nobody sees or stores."""
    if runs_async(hook):

        async def awaited(txn: Transaction) -> None:
            await asettled(hook(txn))

        return awaited

    def called(txn: Transaction) -> None:
        settled(hook(txn))

    return called
