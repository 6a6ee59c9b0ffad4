"""Replay: a call that an earlier attempt finished has its outcome in the ledger and is not executed again."""

from __future__ import annotations

from kapstan.engine.execution import Next, TaskExecution
from kapstan.engine.operations import Operation, Steps
from kapstan.states import State


def replay(execution: TaskExecution, proceed: Next) -> Steps[State]:
    return _replayed(execution, proceed) if execution.ledger.remembers else proceed(execution)


def _replayed(execution: TaskExecution, proceed: Next) -> Steps[State]:
    known = execution.ledger.known(execution)
    if isinstance(known, Operation):
        known = yield known
    if known is not None:
        return known
    return (yield from proceed(execution))
