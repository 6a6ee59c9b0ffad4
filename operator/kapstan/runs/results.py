"""What a run returned, for people and programs that may not unpickle: JSON, else what it is and how large."""

from __future__ import annotations

from typing import Any, NamedTuple

from kapstan import ids
from kapstan.backend import Backend
from kapstan.codec import describe
from kapstan.errors import MissingResult, NotFound, RunFailed, SerializationError, SignatureError
from kapstan.ids import RunId
from kapstan.journal import read_journal
from kapstan.runs.stored import described, is_failure, readable


class ShownResult(NamedTuple):
    """Attributes:
    value: the value, if it is JSON.
    described: what it is otherwise, such as ``pickled, 1,024 bytes``; "" for JSON.
    """

    value: Any
    described: str = ""


def of_flow(backend: Backend, run_id: RunId) -> ShownResult:
    """What a flow run returned, by its journal.

    Raises:
        RunFailed: it ended otherwise, or not yet; the message says how.
        MissingResult: it completed, and its result was not kept.
        Unreadable, BackendError: as ``shown``.
    """
    end, run = read_journal(backend.store, backend.codec, run_id).end, f"flow run {ids.to_uuid(run_id)}"
    if end is None or not end.end.ends_run:
        raise RunFailed(f"{run} has not ended")
    return _completed(backend, run, run_id, end.end.value, end.message, end.result)


def of_call(backend: Backend, flow_run_id: RunId, run_id: RunId) -> ShownResult:
    """What a task returned that a flow run called, by the journal of that.

    Raises:
        NotFound: the journal holds no end of such a call.
        RunFailed, MissingResult, Unreadable, BackendError: as ``of_flow``.
    """
    found = read_journal(backend.store, backend.codec, flow_run_id).outcomes.get(run_id)
    run = f"task run {ids.to_uuid(run_id)}"
    if found is None:
        raise NotFound(f"the journal of flow run {ids.to_uuid(flow_run_id)} holds no end of {run}")
    return _completed(backend, run, run_id, found.state_name or found.state, found.message, found.value)


def _completed(
    backend: Backend, run: str, run_id: RunId, state: str, message: str, envelope: bytes | None
) -> ShownResult:
    if state in ("Failed", "Crashed", "Cancelled", "TimedOut"):
        raise RunFailed(f"{run} is {state}{f': {message}' if message else ''}")
    if envelope is None:
        raise MissingResult(f"{run} is {state}, and its result was not kept")
    return shown(backend, envelope, run_id)


def shown(backend: Backend, envelope: bytes, run_id: RunId) -> ShownResult:
    """The result in ``envelope``. Nothing is unpickled.

    Raises:
        SignatureError, MissingResult: it is not the one that was stored, or is gone.
        BackendError: it cannot be read now.
    """
    try:
        value = readable(backend, envelope, "result", run_id)
        if is_failure(value):
            raise SignatureError(f"run {run_id} failed, and is shown as completed: its record was changed")
        return ShownResult(value)
    except SignatureError:
        raise
    except SerializationError:
        reference = backend.codec.reference(envelope, "result", run_id)
        return ShownResult(None, describe(envelope) if reference is None else described(backend, reference, run_id))
