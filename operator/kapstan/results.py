"""Results: by the id of their run from any process, and under keys of one's own in a ``ResultStore``."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from kapstan import backend as backends
from kapstan import ids, states
from kapstan.engine import ended
from kapstan.errors import UnknownRun
from kapstan.futures import Future
from kapstan.result_store import (
    ResultRecord,
    ResultRecordMetadata,
    ResultStore,
    get_default_result_storage,
    get_result_store,
)
from kapstan.states import State

__all__ = [
    "ResultRecord",
    "ResultRecordMetadata",
    "ResultStore",
    "aread",
    "get_default_result_storage",
    "get_result_store",
    "read",
    "read_flow_run",
    "read_task_run",
]


def read_flow_run(run_id: UUID | str) -> State:
    """The state of a flow run; ``result()`` of it fetches what the flow returned, or raises what it raised. ``Pending``
    where no attempt of such a run has begun.

    Raises:
        StoreUnavailable: the store is away.
    """
    backend, run = backends.current(), ids.parse(run_id)
    state = ended.state_of(backend, run)
    if state is not None:
        return state
    if ended.is_flow_run(backend, run):
        return states.Running(message="the run has not ended")
    return states.Pending(message="no attempt of this run has begun, or there is no such flow run")


def read_task_run(run_id: UUID | str, flow_run_id: UUID | str | None = None) -> State:
    """The state of a background run (``.delay()``), or of a call in the flow run ``flow_run_id``; ``result()`` of it
    fetches the value.

    Raises:
        UnknownRun: the flow's journal holds no end of such a call (now).
        QueueUnavailable, StoreUnavailable: where it stands is away.
    """
    if flow_run_id is None:
        return Future[Any](run_id).state
    flow, run = ids.parse(flow_run_id), ids.parse(run_id)
    state = ended.task_state(backends.current(), flow, run)
    if state is None:
        raise UnknownRun(f"the journal of flow run {ids.to_uuid(flow)} holds no end of task run {ids.to_uuid(run)}")
    return state


def read(run_id: UUID | str, *, flow_run_id: UUID | str | None = None) -> Any:
    """What a run returned, whichever process it ran in: a flow run, a background run, or with ``flow_run_id`` a task
    that this flow run called.

    Raises:
        UnfinishedRun: it has not ended.
        UnknownRun: nobody knows it, or its record has expired.
        Unreadable: its value can never be read here: UnreadableValue, SignatureError, MissingResult.
        BackendError: where it stands is away.
        Exception: what the run raised.
    """
    if flow_run_id is not None:
        return read_task_run(run_id, flow_run_id).result()
    if ended.is_flow_run(backends.current(), ids.parse(run_id)):
        return read_flow_run(run_id).result()
    state = read_task_run(run_id)
    if state.is_pending():
        known = ids.to_uuid(ids.parse(run_id))
        raise UnknownRun(f"no flow run and no background run {known} is known: {UnknownRun.__doc__}")
    return state.result()


async def aread(run_id: UUID | str, *, flow_run_id: UUID | str | None = None) -> Any:
    """As ``read``, without blocking the event loop."""
    return await backends.current().call(lambda: read(run_id, flow_run_id=flow_run_id))
