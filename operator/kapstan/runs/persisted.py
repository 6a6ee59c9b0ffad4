"""Results of background runs that outlive the queue's record of them (``persist_result=True``): in the store, by id.

The first that is stored for a run stands, together with a digest of what the run was asked. An idempotency key names
the same run again when its record has expired: then the stored result is that run's, and nothing is executed. So it is
for a run that is claimed once more since its worker died, or was taken for dead, after it had stored the result.
"""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime
from typing import Any, NamedTuple

from kapstan.backend import Backend
from kapstan.errors import IdempotencyConflict, UnreadableValue
from kapstan.ids import RunId, new_nonce, to_uuid
from kapstan.ports import Outcome

FORMAT = 1


class _Stored(NamedTuple):
    envelope: bytes
    at: float
    request: str
    version: str


def known(backend: Backend, run_id: RunId, request: str) -> bytes | None:
    """The envelope of the result that is stored for a run; None: none is, or the value that it refers to is gone.

    Args:
        request: what the run is asked, as ``settled``.

    Raises:
        IdempotencyConflict: the result is that of another request under the same idempotency key.
        SignatureError: what is there is not ours, or of another run.
        BackendError: the store does not answer.
    """
    stored = _read(backend, run_id)
    if stored is None or _is_hollow(backend, run_id, stored):
        return None
    _check(run_id, stored, request)
    return stored.envelope


def settled(backend: Backend, outcome: Outcome, request: str) -> Outcome:
    """How the run has ended: as ``outcome`` says, which is stored now, or with the result that is stored already.

    Args:
        request: a digest of what the run was asked, with the version of how it was made before a dash; "" where its id
            stands for one request only.

    Raises:
        IdempotencyConflict, SignatureError: as ``known``; the outcome was not stored.
        BackendError: the store does not answer; nothing is lost, call again.
    """
    if outcome.state not in ("completed", "failed", "crashed"):
        return outcome
    sealed = _sealed(backend, outcome, request) if outcome.state == "completed" else None
    while True:
        if sealed is not None and backend.store.create(_name(outcome.run_id), sealed):
            return outcome
        stored = _read(backend, outcome.run_id)
        if stored is None:
            if sealed is None:
                return outcome
        elif not _is_hollow(backend, outcome.run_id, stored):
            if sealed is None and _differs(stored, request):
                return outcome
            _check(outcome.run_id, stored, request)
            return outcome._replace(state="completed", envelope=stored.envelope)
        elif sealed is None or backend.store.replace(_name(outcome.run_id), sealed, stored.version) is not None:
            return outcome


def envelope_of(backend: Backend, run_id: RunId) -> bytes | None:
    """The envelope of the result that is stored for a run; None: none is.

    Raises:
        SignatureError: what is there is not ours, or of another run.
        BackendError: the store does not answer.
    """
    stored = _read(backend, run_id)
    return None if stored is None else stored.envelope


def _sealed(backend: Backend, outcome: Outcome, request: str) -> bytes:
    result = base64.b64encode(outcome.envelope).decode()
    body = {"v": FORMAT, "nonce": new_nonce(), "at": time.time(), "result": result, "request": request}
    return backend.codec.encode(body, "result", _place(outcome.run_id))


def _read(backend: Backend, run_id: RunId) -> _Stored | None:
    found = backend.store.get(_name(run_id))
    if found is None:
        return None
    body: Any = backend.codec.decode_json(found.body, "result", _place(run_id))
    return _Stored(base64.b64decode(body["result"]), body["at"], body.get("request", ""), found.version)


def _is_hollow(backend: Backend, run_id: RunId, stored: _Stored) -> bool:
    """Whether the value that a stored result refers to is gone: retention took it, or somebody else did."""
    reference = backend.codec.reference(stored.envelope, "result", run_id)
    if reference is None:
        return False
    try:
        with backend.objects(reference.storage).download(reference.key) as source:
            return source is None
    except UnreadableValue:  # an object of the user's that this process does not have
        return False


def _differs(stored: _Stored, request: str) -> bool:
    """Whether two digests tell of different requests: both are there, and made in the same way."""
    return stored.request != request and stored.request.partition("-")[0] == request.partition("-")[0] != ""


def _check(run_id: RunId, stored: _Stored, request: str) -> None:
    if not _differs(stored, request):
        return
    when = datetime.fromtimestamp(stored.at, UTC).isoformat(timespec="seconds")
    raise IdempotencyConflict(
        f"its idempotency key was used with other arguments: run {to_uuid(run_id)} completed at {when}, and its result "
        "is still stored (persist_result). Give another key, or delete that run: kapstan task-run delete "
        f"{to_uuid(run_id)}"
    )


def _name(run_id: RunId) -> str:
    return f"values/{run_id}/{run_id}/outcome"  # as retention knows values of a background run


def _place(run_id: RunId) -> str:
    return f"{run_id}\0outcome"
