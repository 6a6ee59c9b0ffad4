"""Transact: in a transaction a task is a part of it, which is committed or undone with the whole. The hooks of a task
outside of any are called at its end."""

from __future__ import annotations

from kapstan.engine import returns, transaction
from kapstan.engine.execution import Next, TaskExecution
from kapstan.engine.operations import Steps, Wait
from kapstan.engine.steps.hooks import commit, rollback
from kapstan.engine.transaction import Transaction
from kapstan.errors import KapstanError, TransactionError, TransactionRolledBack
from kapstan.specs import TaskSpec
from kapstan.states import State


def transact(execution: TaskExecution, proceed: Next) -> Steps[State]:
    around = transaction.enclosing()
    return proceed(execution) if around is None and not has_hooks(execution.spec) else _part(execution, proceed, around)


def has_hooks(spec: TaskSpec) -> bool:
    return bool(spec.on_commit or spec.on_rollback)


def _part(execution: TaskExecution, proceed: Next, around: Transaction | None) -> Steps[State]:
    run, spec = execution.run, execution.spec
    part = execution.part = Transaction(
        run_id=run.run_id, name=f"task run '{run.name}'", parent=around, parameters=lambda: run.parameters
    )
    if around is not None:
        around.check_begins(part.name)
    try:
        state = yield from proceed(execution)
    except TransactionRolledBack:
        if part.was_completed and around is not None:
            around.add(_staged(part, spec))
        raise
    if not state.is_completed() or state.name == "Cached":
        return state
    if has_hooks(spec):
        _staged(part, spec).returned(state)
    if around is None or part.commit_mode == "EAGER":
        yield from commit(part)
    elif has_hooks(spec):
        try:
            around.add(part)
        except TransactionError:
            yield from rollback(part.alone(), "it ended after its transaction")
            raise
    return state


def _staged(part: Transaction, spec: TaskSpec) -> Transaction:
    part.stage(on_rollback_hooks=spec.on_rollback, on_commit_hooks=spec.on_commit)
    return part


def within(execution: TaskExecution, proceed: Next) -> Steps[State]:
    """One execution of the task's code: what it calls is committed with it, and undone if it fails."""
    return proceed(execution) if execution.part is None else _within(execution, proceed, execution.part)


def _within(execution: TaskExecution, proceed: Next, part: Transaction) -> Steps[State]:
    part.begin()
    mark = transaction.current.set(part)
    try:
        state = yield from proceed(execution)
    finally:
        transaction.current.reset(mark)
    while waited_for := part.submitted:
        yield Wait(waited_for)
    if state.is_completed():
        try:
            yield from commit(part.taken())
        except KapstanError as error:  # the key of a transaction in it cannot be stored
            return returns.failed(error, "Task run encountered an exception")
    elif state.is_final():
        yield from rollback(part.taken(), state.message)
    return state
