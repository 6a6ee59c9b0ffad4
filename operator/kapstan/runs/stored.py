"""Values of runs as people may see them: verified, JSON only, fetched from the store where they are large."""

from __future__ import annotations

from typing import Any

from kapstan.backend import Backend
from kapstan.codec import Purpose, digest
from kapstan.errors import MissingResult, SignatureError
from kapstan.ids import RunId

_PLACE = "\0"
FAILURE = "\0failure"
"""Stands in what tells of a failure. The state of a record in Redis is not signed; so that nobody can show a failure as
a result, it says itself what it is."""


def is_failure(value: Any) -> bool:
    """Whether the value in an envelope tells of a failure and is no result."""
    return type(value) is dict and FAILURE in value


def arguments_key(run_id: RunId, task: str) -> str:
    """What the arguments of a background run are signed for: this run of this task, so that nobody who can write to
    the queue can have them executed by another task."""
    return f"{run_id}{_PLACE}{task}"


def readable(backend: Backend, envelope: bytes, purpose: Purpose, key: str) -> Any:
    """The value of ``envelope``.

    Raises:
        SerializationError, SignatureError: it is not JSON, or not signed for this place.
        MissingResult: it stood in the store and is gone.
        StoreUnavailable: the store is away.
    """
    reference = backend.codec.reference(envelope, purpose, key)
    if reference is None:
        return backend.codec.decode_json(envelope, purpose, key)
    stored = backend.store.get(reference.key)
    if stored is None:
        raise MissingResult(f"the object {reference.key!r} is not in the store any more")
    if digest(stored.body) != reference.digest:
        raise SignatureError(f"the object {reference.key!r} is not the one that was stored: its digest differs")
    return backend.codec.decode_json(stored.body, purpose, key)
