"""Final states: of a flow by what it returned, of any run by what it raised."""

from __future__ import annotations

from typing import Any, cast

from kapstan import states
from kapstan.engine.pending import Resolvable
from kapstan.errors import TaskTimeout
from kapstan.states import State, StateType


def state_of(result: Any) -> State:
    """The final state of a flow that returned ``result``; waits for the futures in it.

    A state is taken as it is; a future gives its state and its result. A list, tuple or set of nothing but states and
    futures decides together: one that is not Completed makes the run Failed, else the results are the run's result. Any
    other value makes it Completed.
    """
    if isinstance(result, Resolvable):
        return _ended(result.final_state())
    if isinstance(result, State):
        return result
    if isinstance(result, (list, tuple, set)):
        items = list(cast("Any", result))
        if items and all(isinstance(item, (State, Resolvable)) for item in items):
            return _together([item.final_state() if isinstance(item, Resolvable) else item for item in items])
    return states.Completed(data=result)


def failed(error: BaseException, what: str) -> State:
    """The state of a run that raised: Failed, named ``TimedOut`` if its own limit ended it."""
    name = "TimedOut" if isinstance(error, TaskTimeout) else "Failed"
    message = f"{what}: {type(error).__name__}: {error}"
    return State(StateType.FAILED, name, message, data=error, has_data=True)


def _ended(state: State) -> State:
    return state if state.is_final() else _together([state])


def _together(found: list[State]) -> State:
    wrong = [state for state in found if not state.is_completed()]
    if not wrong:
        return states.Completed(data=[state.result() for state in found])
    message = f"{len(wrong)}/{len(found)} states are not Completed: {', '.join(sorted({s.name for s in wrong}))}"
    ended = [state for state in wrong if state.is_final()]
    if not ended:
        return states.Failed(message=message)
    return states.Failed(message=message, data=ended[0].result(raise_on_failure=False))
