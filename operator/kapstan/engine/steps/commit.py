"""Commit: the outcome is durable before the caller sees it. ``NotReady`` is no end and is not kept."""

from __future__ import annotations

from kapstan.engine.execution import Next, TaskExecution
from kapstan.engine.operations import Steps
from kapstan.states import State


def commit(execution: TaskExecution, proceed: Next) -> Steps[State]:
    state = yield from proceed(execution)
    operation = execution.ledger.keep(execution, state)
    if operation is not None:
        yield operation
    return state
