"""How background runs of durability ``store`` have ended: noted in the object store before the queue is told.

One object a run, ``ended/<run>``. The first that completes a run stands: whoever executed it too, since its claim was
taken for lost, adopts that. Of other ends the one with the greatest token stands. Retention takes notes away.
"""

from __future__ import annotations

import base64
import dataclasses
import logging
import time
from typing import Any

from kapstan.backend import Backend
from kapstan.errors import BackendError, SerializationError, StoreUnsafe
from kapstan.ids import RunId, Token
from kapstan.ports import Claim, Outcome, RunRecord, Submission
from kapstan.ports.lane import StoredClaim
from kapstan.runs import submissions
from kapstan.runs.noted import Notes
from kapstan.runs.submissions import StoredSubmission
from kapstan.states import EffectClass

FOLDER = "ended/"
_NOTES = Notes(FOLDER, "ended", 1)
_FINAL = ("completed", "failed", "crashed", "cancelled")
_TRIES = 100
logger = logging.getLogger("kapstan.runs")


def read(backend: Backend, run_id: RunId) -> RunRecord | None:
    """The run as its note says that it ended.

    Raises:
        SignatureError, SerializationError: what is there is not ours.
        StoreUnsafe: a newer release wrote it.
        BackendError: the store does not answer.
    """
    found = backend.store.get(_NOTES.name(run_id))
    return None if found is None else _opened(backend, run_id, found.body)


def may_be_forgotten(backend: Backend, run_id: RunId) -> bool:
    """Whether the store tells the end of a run that the queue does not know, or has of it what nobody can read.

    Raises:
        BackendError: the store does not answer, or a newer release wrote it.
    """
    try:
        submissions.read(backend, run_id)
        return read(backend, run_id) is not None
    except SerializationError:
        return True


def counts(ended: RunRecord, stored: StoredSubmission | None) -> bool:
    """Whether that is the end of the run, and no person had it begun once more after it."""
    return ended.state == "completed" or stored is None or str(ended.token) > stored.again


def settled(backend: Backend, ended: RunRecord) -> RunRecord:
    """Note an end: as ``ended`` says, or as is noted already if that stands. The submission of a run that has completed
    goes.

    Raises:
        as ``read``: nothing is lost, call again.
    """
    for _ in range(_TRIES):
        sealed = _sealed(backend, ended)
        if backend.store.create(_NOTES.name(ended.run_id), sealed):
            break
        found = backend.store.get(_NOTES.name(ended.run_id))
        if found is None:
            continue  # retention took it away
        there = _opened(backend, ended.run_id, found.body)
        if there.state == "completed" or there.token >= ended.token:
            ended = there
            break
        if backend.store.replace(_NOTES.name(ended.run_id), sealed, found.version) is not None:
            break
    else:
        raise StoreUnsafe(
            f"{_NOTES.name(ended.run_id)} was changed by others {_TRIES} times while it was to be written"
        )
    if ended.state == "completed":
        forget_submission(backend, ended.run_id)
    return ended


def forget_submission(backend: Backend, run_id: RunId) -> None:
    """Take away what is left of a run that has completed. If it is refused (pods need no right to delete), a sweep or a
    rebuild does it: the note counts."""
    try:
        submissions.remove(backend, run_id)
    except BackendError as error:
        logger.debug("The submission of run %s, which has completed, is still in the store: %s", run_id, error)


def of_outcome(claim: Claim, outcome: Outcome) -> RunRecord | None:
    """The end that an outcome is; None: it is none."""
    said = claim.stored
    if said is None or outcome.state not in _FINAL:
        return None
    end = _end_of(claim, said, outcome.state, outcome.token, outcome.envelope)
    return dataclasses.replace(end, attempt=claim.attempt, crashes=claim.crashes)


def of_submission(stored: StoredSubmission, state: Any, envelope: bytes, *, expired: bool = False) -> RunRecord:
    """The end of a run that no queue tells of any more."""
    token = Token.parse(stored.again) if stored.again else Token(0, 0)
    end = _end_of(stored.submission, stored.submission, state, token._replace(epoch=token.epoch + 1), envelope)
    return dataclasses.replace(end, expired=expired)


def _end_of(
    run: Claim | Submission, said: StoredClaim | Submission, state: Any, token: Token, envelope: bytes
) -> RunRecord:
    """``said``: what a claim alone does not say of its run."""
    return RunRecord(
        run.run_id,
        run.task,
        said.queue,
        state,
        token,
        1,
        0,
        envelope,
        time.time(),
        effect=run.effect,
        priority=said.priority,
        group=said.group,
        fingerprint=said.fingerprint,
        stored=True,
    )


def remove(backend: Backend, run_id: RunId) -> None:
    """
    Raises:
        BackendError: it may still be there.
    """
    _NOTES.remove(backend, run_id)


def _sealed(backend: Backend, ended: RunRecord) -> bytes:
    body = dataclasses.asdict(ended)
    del body["run_id"], body["key"], body["stored"]
    body |= {
        "token": str(ended.token),
        "effect": ended.effect.value,
        "envelope": base64.b64encode(ended.envelope).decode(),
    }
    return _NOTES.sealed(backend, ended.run_id, body)


def _opened(backend: Backend, run_id: RunId, sealed: bytes) -> RunRecord:
    said = _NOTES.opened(backend, run_id, sealed)
    fields = {field.name: said[field.name] for field in dataclasses.fields(RunRecord) if field.name in said}
    fields |= {
        "token": Token.parse(said["token"]),
        "effect": EffectClass(said["effect"]),
        "envelope": base64.b64decode(said["envelope"]),
    }
    return RunRecord(run_id, **fields, stored=True)
