"""The final state of a flow run, read from its journal by id."""

from __future__ import annotations

from kapstan.backend import Backend
from kapstan.engine import values
from kapstan.engine.memo import background_id
from kapstan.ids import RunId
from kapstan.journal import read_journal
from kapstan.states import AttemptOutcome, State, StateType


def is_flow_run(backend: Backend, run_id: RunId) -> bool:
    """Whether there is a journal of a flow run of this id.

    Raises:
        StoreUnavailable: the store is away.
    """
    history = read_journal(backend.store, backend.codec, run_id)
    return bool(history.attempts) or history.end is not None


def task_state(backend: Backend, flow_run_id: RunId, run_id: RunId) -> State | None:
    """The final state of a task that a flow run called, by the journal of the flow run; None if that holds none.

    Raises:
        StoreUnavailable: the store is away.
    """
    history = read_journal(backend.store, backend.codec, flow_run_id)
    outcome = history.outcomes.get(run_id) or next(
        (found for found in history.outcomes.values() if background_id(found) == run_id), None
    )
    if outcome is None or not StateType(outcome.state).final:
        return None
    kind, value, key = StateType(outcome.state), outcome.value, background_id(outcome)
    if kind is StateType.COMPLETED:
        loader = None if value is None else lambda: values.open_value(backend, value, "result", key)
        return State(kind, outcome.state_name, outcome.message, outcome.at, loader=loader)
    error = None if value is None else values.open_failure(backend, value, key, state=kind.lower())
    return State(kind, outcome.state_name, outcome.message, outcome.at, error, error is not None)


def state_of(backend: Backend, run_id: RunId, *, only: AttemptOutcome | None = None) -> State | None:
    """The final state of a flow run by its journal, with its result; None if it has not ended, or not with the outcome
    ``only``.

    Raises:
        StoreUnavailable: the store is away.
    """
    end = read_journal(backend.store, backend.codec, run_id).end
    if end is None or not end.end.ends_run or (only is not None and end.end != only):
        return None
    if end.end is AttemptOutcome.COMPLETED:
        loader = None if end.result is None else lambda: values.open_value(backend, end.result or b"", "result", run_id)
        return State(StateType.COMPLETED, message=end.message, timestamp=end.at, loader=loader)
    kind = StateType(end.end.value.upper())
    error = None if end.result is None else values.open_failure(backend, end.result, run_id)
    return State(kind, message=end.message, timestamp=end.at, data=error, has_data=error is not None)
