"""What a flow's return value says about its final state."""

from __future__ import annotations

from typing import Any, cast

from kapstan import states
from kapstan.engine.pending import Resolvable
from kapstan.states import State


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
        items = cast("list[Any]", list(cast("Any", result)))
        if items and all(isinstance(item, (State, Resolvable)) for item in items):
            return _together([item.final_state() if isinstance(item, Resolvable) else item for item in items])
    return states.Completed(data=result)


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
