"""Results by id, from any process that reaches the store.

A flow run by ``read_flow_run``, from its journal; a background run by ``kapstan.futures.Future``.
"""

from __future__ import annotations

from uuid import UUID

from kapstan import backend as backends
from kapstan import ids, states
from kapstan.engine import ended
from kapstan.states import State

__all__ = ["read_flow_run"]


def read_flow_run(run_id: UUID | str) -> State:
    """The state of a flow run; ``result()`` of it fetches what the flow returned, or raises what it raised.

    Raises:
        StoreUnavailable: the store is away.
    """
    state = ended.state_of(backends.current(), ids.parse(run_id))
    return states.Running(message="the run has not ended") if state is None else state
