"""The final state of a flow run, read from its journal by id."""

from __future__ import annotations

from kapstan.backend import Backend
from kapstan.engine import values
from kapstan.ids import RunId
from kapstan.journal import read_journal
from kapstan.states import AttemptOutcome, State, StateType


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
