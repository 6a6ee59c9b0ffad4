"""Submissions of durability ``store``: in the object store before the queue is given the run, until it has completed.

One object a run, ``submissions/<run>``: all that is needed to submit it again, signed for its place. Changed by
conditional writes only. What does not complete keeps its submission, since a person may have it run once more; its end
is noted beside it (``ends``).
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from kapstan.backend import Backend
from kapstan.durability import Durability
from kapstan.errors import StoreUnsafe
from kapstan.ids import RunId
from kapstan.ports import Submission
from kapstan.runs.noted import Notes
from kapstan.states import EffectClass

FOLDER = "submissions/"
_NOTES = Notes(FOLDER, "submission", 1)
_TRIES = 100


@dataclass(frozen=True, slots=True)
class StoredSubmission:
    """
    Attributes:
        submission: as it was made; its delay and deadline are ``due`` and ``deadline``.
        due, deadline: Unix seconds, by the store's clock; None: there is none.
        persists: whether its result is kept by its id, too (``persisted``).
        cancelled: a person has cancelled it.
        again: the token of the end after which a person had it begun once more; no end up to that is its end.
        withdrawn: its submit was refused: it is none.
    """

    submission: Submission
    due: float | None
    deadline: float | None
    persists: bool
    cancelled: bool = False
    again: str = ""
    withdrawn: bool = False

    @property
    def run_id(self) -> RunId:
        return self.submission.run_id

    def submitted_again(self, now: float) -> Submission:
        """What the queue is given that has lost it. One of class at_most_once may have begun, so that its deadline does
        not end it any more: if that is over, it is cancelled, which its register decides on."""
        once = self.submission.effect is EffectClass.AT_MOST_ONCE
        cancelled = self.cancelled or (once and self.is_over(now))
        return self.submission._replace(
            delay=0.0 if self.due is None or cancelled else max(0.0, self.due - now),
            expires=None if self.deadline is None or once else max(0.0, self.deadline - now),
            after=() if cancelled else self.submission.after,
            begun=True,
            cancelled=cancelled,
        )

    def is_over(self, now: float) -> bool:
        """Whether it had to begin before."""
        return self.deadline is not None and self.deadline <= now


def of(submission: Submission, now: float, *, persists: bool) -> StoredSubmission:
    """``now``: by the store's clock."""
    return StoredSubmission(
        submission,
        now + submission.delay if submission.delay else None,
        None if submission.expires is None else now + submission.expires,
        persists,
    )


def create(backend: Backend, stored: StoredSubmission) -> str | None:
    """Write it: its version; None: there is one of this run.

    Raises:
        BackendError: the store does not take it, or whether it did is unknown.
    """
    return backend.store.create_version(_NOTES.name(stored.run_id), _sealed(backend, stored))


def read(backend: Backend, run_id: RunId) -> StoredSubmission | None:
    """
    Raises:
        SignatureError, SerializationError: what is there is not ours.
        StoreUnsafe: a newer release wrote it.
        BackendError: the store does not answer.
    """
    found = backend.store.get(_NOTES.name(run_id))
    return None if found is None else _opened(backend, run_id, found.body)


def change(
    backend: Backend, run_id: RunId, changed: Callable[[StoredSubmission], StoredSubmission | None]
) -> str | None:
    """Write what ``changed`` makes of it: its version. None: there is none, or ``changed`` wants nothing written.

    Raises:
        as ``read``.
    """
    for _ in range(_TRIES):
        found = backend.store.get(_NOTES.name(run_id))
        wanted = None if found is None else changed(_opened(backend, run_id, found.body))
        if found is None or wanted is None:
            return None
        version = backend.store.replace(_NOTES.name(run_id), _sealed(backend, wanted), found.version)
        if version is not None:
            return version
    raise StoreUnsafe(f"{_NOTES.name(run_id)} was changed by others {_TRIES} times while it was to be changed")


def note_cancel(backend: Backend, run_id: RunId) -> None:
    """A person cancels the run: should the queue be lost, it is cancelled all the same. Raises as ``read``."""
    change(backend, run_id, lambda stored: replace(stored, cancelled=True))


def note_rerun(backend: Backend, run_id: RunId, token: str) -> bool:
    """A person has the run begin once more, now, that ended with ``token``; False: it is not stored any more. Raises as
    ``read``."""
    begun: dict[str, Any] = {"cancelled": False, "due": None, "deadline": None, "again": token}
    return change(backend, run_id, lambda stored: replace(stored, **begun)) is not None


def withdraw(backend: Backend, stored: StoredSubmission, version: str) -> None:
    """Its submit was refused; unless somebody else has written it meanwhile, who submits the same run.

    Raises:
        BackendError: it may stay.
    """
    backend.store.replace(_NOTES.name(stored.run_id), _sealed(backend, replace(stored, withdrawn=True)), version)


def remove(backend: Backend, run_id: RunId) -> None:
    """
    Raises:
        BackendError: it may still be there.
    """
    _NOTES.remove(backend, run_id)


def _sealed(backend: Backend, stored: StoredSubmission) -> bytes:
    run = stored.submission
    body = {
        "task": run.task,
        "arguments": base64.b64encode(run.envelope).decode(),
        "fingerprint": run.fingerprint,
        "queue": run.queue,
        "effect": run.effect.value,
        "priority": run.priority,
        "group": run.group,
        "after": list(run.after),
        "due": stored.due,
        "deadline": stored.deadline,
        "persists": stored.persists,
        "cancelled": stored.cancelled,
        "again": stored.again,
        "withdrawn": stored.withdrawn,
    }
    return _NOTES.sealed(backend, run.run_id, body)


def _opened(backend: Backend, run_id: RunId, sealed: bytes) -> StoredSubmission:
    said = _NOTES.opened(backend, run_id, sealed)
    submission = Submission(
        run_id,
        said["task"],
        base64.b64decode(said["arguments"]),
        said["fingerprint"],
        said["queue"],
        effect=EffectClass(said["effect"]),
        priority=said["priority"],
        group=said["group"],
        after=tuple(said["after"]),
        durability=Durability.STORE,
    )
    kept = (said["persists"], said["cancelled"], said["again"], said["withdrawn"])
    return StoredSubmission(submission, said["due"], said["deadline"], *kept)
