"""Final states: of a flow by what it returned, of any run by what it raised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from kapstan import states
from kapstan.engine import values
from kapstan.engine.pending import Resolvable
from kapstan.states import State, StateType


def state_of(result: Any) -> State:
    """The final state of a flow that returned ``result``; waits for the futures in it.

    A state that the flow made itself is its state. States and futures of runs, one or a list, tuple or set of nothing
    else, decide together: Completed if all are, Cancelled if one is, else Failed; the result holds them as states. Any
    other value makes the flow Completed; futures in it become states.
    """
    result = _states_in(result, {})
    if isinstance(result, State) and result.run_id is None:
        return _made_by_hand(result)
    if isinstance(result, State):
        return _together([result], result)
    if isinstance(result, (list, tuple, set)):
        items = list(cast("Any", result))
        if items and all(isinstance(item, State) for item in items):
            return _together(items, result)
    return states.Completed(data=result)


def failed(error: BaseException, what: str, *, timed_out: bool = False) -> State:
    """The state of a run that raised: Failed, named ``TimedOut`` if its own limit ended it."""
    name = "TimedOut" if timed_out else "Failed"
    message = f"{what}: {type(error).__name__}: {values.printable(error)}"
    return State(StateType.FAILED, name, message, data=error, has_data=True)


def _made_by_hand(state: State) -> State:
    if not state.is_final():
        return states.Failed(message=f"the flow returned the state {state}, which is not final")
    return with_result(state)


def with_result(state: State) -> State:
    """A state that code returned: ``Completed()`` without data has the result None."""
    if state.is_completed() and not state.has_data and state.loader is None:
        return state.with_data(None)
    return state


def _states_in(value: Any, seen: dict[int, Any]) -> Any:
    """``value`` with the futures in its lists, tuples, sets and dicts replaced by their final states."""
    if isinstance(value, Resolvable):
        return value.final_state().of_run(value.memo_reference)
    kind: Any = cast("Any", type)(value)
    if kind not in (list, tuple, set, frozenset, dict):
        return value
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = value  # a circle stays as it is
    if kind is dict:
        keys, found = [*value], [*value.values()]
    else:
        keys, found = None, list(value)
    new = [_states_in(item, seen) for item in found]
    if any(one is not other for one, other in zip(found, new, strict=True)):
        seen[id(value)] = kind(new) if keys is None else dict(zip(keys, new, strict=True))
    return seen[id(value)]


def _together(found: Sequence[State], result: Any) -> State:
    count = len(found)
    cancelled = sum(state.is_cancelled() for state in found)
    wrong = [state for state in found if not state.is_completed()]
    if not wrong:
        return states.Completed(message="All states completed.", data=result)
    if cancelled:
        return states.Cancelled(message=f"{cancelled}/{count} states cancelled.", data=result)
    names = ", ".join(sorted({state.name for state in wrong}))
    return states.Failed(message=f"{len(wrong)}/{count} states are not Completed: {names}", data=result)
