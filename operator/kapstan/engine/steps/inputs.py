"""Inputs: futures and states among the arguments become their results; nothing is held while they are waited for."""

from __future__ import annotations

from kapstan import states
from kapstan.engine.execution import Next, TaskExecution
from kapstan.engine.operations import Do, Steps, Wait
from kapstan.engine.pending import UpstreamFailed, has_promises, promises, resolved
from kapstan.states import State


def inputs(execution: TaskExecution, proceed: Next) -> Steps[State]:
    kwargs = execution.kwargs
    if execution.wait_for or has_promises(execution.args) or (kwargs and has_promises(kwargs)):
        return _awaited(execution, proceed)
    return proceed(execution)


def _awaited(execution: TaskExecution, proceed: Next) -> Steps[State]:
    waited_for = [*promises(execution.args), *promises(execution.kwargs), *promises(execution.wait_for)]
    if waited_for:
        yield Wait(waited_for)
    try:
        yield Do(_resolve, execution)
    except UpstreamFailed as error:
        message = f"something that it waits for ended as {error}"
        return states.Pending(name="NotReady", message=message)
    return (yield from proceed(execution))


def _resolve(execution: TaskExecution) -> None:
    """Blocks only to fetch what is in the store.

    Raises:
        UpstreamFailed: something did not complete.
    """
    resolved(execution.wait_for)
    execution.args = resolved(execution.args)
    execution.kwargs = resolved(execution.kwargs)
