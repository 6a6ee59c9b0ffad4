"""Values of runs as people may see them: verified, JSON only, fetched from the store where they are large."""

from __future__ import annotations

from typing import Any

from kapstan.backend import Backend
from kapstan.codec import Purpose, Reference, describe, digest
from kapstan.errors import MissingResult, SerializationError, SignatureError
from kapstan.ids import RunId
from kapstan.sealed_stream import Place, Stream, nonce_in

_PLACE = "\0"
FAILURE = "\0failure"
"""Stands in what tells of a failure. The state of a record in Redis is not signed; so that nobody can show a failure as
a result, it says itself what it is."""


UNREADABLE = (
    "its record in Redis cannot be read: another program, or another release of Kapstan, wrote to its key. What a "
    "worker found there is kept for 8 days, in the key bad: and the id"
)


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
    return opened(backend, reference, purpose, key, only_json=True)


def opened(backend: Backend, reference: Reference, purpose: Purpose, key: str, *, only_json: bool = False) -> Any:
    """The value that ``reference`` stands for.

    Args:
        only_json: refuse what is not JSON, plain or compressed: nothing is unpickled.

    Raises:
        MissingResult: it is not in the store any more.
        SignatureError: it is not the one that was stored: cut, changed, or another one in its place.
        UnreadableValue: it cannot be loaded here.
        SerializationError: it is not JSON, with ``only_json``.
        BackendError: it cannot be read now.
    """
    codec, objects = backend.codec, backend.objects(reference.storage)
    nonce = nonce_in(reference.digest)
    if nonce is None:
        stored = objects.get(reference.key)
        if stored is None:
            raise _missing(reference)
        if digest(stored.body) != reference.digest:
            raise SignatureError(f"the object {reference.key!r} is not the one that was stored: its digest differs")
        return (codec.decode_json if only_json else codec.decode)(stored.body, purpose, key)
    with objects.download(reference.key) as source:
        if source is None:
            raise _missing(reference)
        stream = Stream(codec, source, Place(purpose, key), nonce)
        if only_json and not codec.reader(stream.serializer).is_json:
            raise SerializationError(f"this {purpose} is not JSON but written by {stream.serializer!r}")
        return stream.value()


def described(backend: Backend, reference: Reference, key: str) -> str:
    """Kind and size of the result that ``reference`` stands for, for people."""
    objects, nonce = backend.objects(reference.storage), nonce_in(reference.digest)
    if nonce is None:
        stored = objects.get(reference.key)
        return "gone from the store" if stored is None else describe(stored.body)
    with objects.download(reference.key) as source:
        if source is None:
            return "gone from the store"
        stream = Stream(backend.codec, source, Place("result", key), nonce)
        return f"written by {stream.serializer!r}, {reference.size:,} bytes"


def _missing(reference: Reference) -> MissingResult:
    where = f" {reference.storage}" if reference.storage else ""
    return MissingResult(f"the object {reference.key!r} is not in the store{where} any more")
