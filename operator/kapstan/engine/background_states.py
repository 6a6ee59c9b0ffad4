"""Where a background run stands: by the queue's record of it, else by a result that outlives that (``persist_result``).

Called by ``futures``."""

from __future__ import annotations

from typing import NamedTuple

from kapstan import states
from kapstan.backend import Backend
from kapstan.engine import values
from kapstan.errors import ParkedRun
from kapstan.ids import RunId
from kapstan.ports import Doubt, RunRecord
from kapstan.runs import persisted
from kapstan.states import State


class Seen(NamedTuple):
    """``envelope``: of the result or the failure."""

    state: State
    envelope: bytes


def look(backend: Backend, run_id: RunId) -> Seen | None:
    """None: neither the queue knows the run, nor is a result of it stored.

    Raises:
        QueueUnavailable, StoreUnavailable, StoreRefused: that cannot be asked now.
        SignatureError: what is stored is not ours, or of another run.
    """
    record = backend.queue.record(run_id)
    if record is not None:
        return Seen(_state_of(backend, record), record.envelope)
    envelope = persisted.envelope_of(backend, run_id)
    return None if envelope is None else Seen(_completed(backend, run_id, envelope), envelope)


def _state_of(backend: Backend, record: RunRecord) -> State:
    if record.state in ("ready", "delayed"):
        return states.AwaitingRetry() if record.state == "delayed" and record.attempt > 1 else states.Scheduled()
    if record.state == "running":
        return states.Running()
    if record.state == "parked":
        doubt = Doubt(record.task, record.key, record.run_id)
        return states.parked(f"{record.task} is parked (key {record.key}): {ParkedRun.__doc__}", doubt)
    if record.state == "completed":
        return _completed(backend, record.run_id, record.envelope)
    if record.state == "cancelled":
        return states.expired() if record.expired else states.Cancelled()
    error = values.open_failure(backend, record.envelope, record.run_id, state=record.state)
    make = states.Failed if record.state == "failed" else states.Crashed
    return make(message=f"{type(error).__name__}: {values.printable(error)}", data=error)


def _completed(backend: Backend, run_id: RunId, envelope: bytes) -> State:
    if not envelope:
        return states.Completed()
    return State(
        states.StateType.COMPLETED,
        loader=lambda: values.open_result(backend, envelope, run_id),
        details={"run_id": run_id},
    )
