"""Arguments, results and failures as signed envelopes: small ones ride along, large ones become an object in the store.

Called by the engine, by futures and by whoever submits. A failure is JSON (type, message, traceback), so that control
plane and CLI can show it; where pickle is allowed it also carries the exception itself for whoever waits in Python.
"""

from __future__ import annotations

import base64
import traceback
from typing import Any

from kapstan.backend import Backend
from kapstan.codec import Purpose, Reference, digest
from kapstan.errors import (
    CrashedRun,
    KapstanError,
    MissingResult,
    RunFailed,
    SerializationError,
    SignatureError,
    ValueTooLarge,
)
from kapstan.ids import RunId, new_id
from kapstan.runs.stored import arguments_key as arguments_key

_TRACEBACK_CHARACTERS = 16_000
_PLACE = "\0"


def seal_value(backend: Backend, value: Any, purpose: Purpose, key: str, *, what: str) -> bytes:
    """The envelope of ``value``, signed for ``key`` (the id of its run); above ``inline_bytes`` an envelope that
    refers to the store.

    Raises:
        SerializationError: no allowed serializer carries it; the message names ``what``.
        ValueTooLarge: more than ``max_value_bytes``.
        StoreUnavailable: it is large and the store is away.
    """
    envelope = backend.codec.encode(value, purpose, key, what=what)
    return envelope if len(envelope) <= backend.settings.inline_bytes else to_store(backend, envelope, purpose, key)


def to_store(backend: Backend, envelope: bytes, purpose: Purpose, key: str) -> bytes:
    """Write ``envelope`` under a name of its own, beside the others of its run, and return one that refers to it."""
    name = f"values/{key.partition(_PLACE)[0]}/{new_id()}"
    backend.store.put(name, envelope)
    return backend.codec.refer(Reference(name, digest(envelope), len(envelope)), purpose, key)


def open_value(backend: Backend, envelope: bytes, purpose: Purpose, key: str) -> Any:
    """The value of ``envelope``, fetched from the store if it refers there.

    Raises:
        SignatureError, SerializationError: as ``Codec.decode``; also an object that is not the one referred to.
        MissingResult: the object is gone.
        StoreUnavailable: the store is away.
    """
    value = backend.codec.decode(envelope, purpose, key)
    if type(value) is Reference:
        return backend.codec.decode(_fetch(backend, value), purpose, key)
    return value


def is_stored(backend: Backend, envelope: bytes, purpose: Purpose, key: str) -> bool:
    """Whether ``envelope`` refers to the store, so that opening it blocks."""
    return backend.codec.reference(envelope, purpose, key) is not None


def _fetch(backend: Backend, reference: Reference) -> bytes:
    stored = backend.store.get(reference.key)
    if stored is None:
        raise MissingResult(f"the object {reference.key!r} is not in the store any more")
    if digest(stored.body) != reference.digest:
        raise SignatureError(f"the object {reference.key!r} is not the one that was stored: its digest differs")
    return stored.body


def seal_failure(backend: Backend, error: BaseException, key: str) -> bytes:
    """As ``failure_envelope``; above ``inline_bytes`` an envelope that refers to the store.

    Raises:
        StoreUnavailable, StoreRefused: it is large and the store does not take it.
    """
    envelope = failure_envelope(backend, error, key)
    return envelope if len(envelope) <= backend.settings.inline_bytes else to_store(backend, envelope, "result", key)


def failure_envelope(backend: Backend, error: BaseException, key: str) -> bytes:
    """The envelope of a failure, signed for ``key`` and whole; never raises for what the exception holds."""
    codec = backend.codec
    body: dict[str, Any] = {
        "type": type(error).__qualname__,
        "message": _printable(error),
        "traceback": _traceback(error),
    }
    if backend.settings.allow_pickle:
        try:
            pickled = codec.encode(error, "result", key, what="the exception")
            if isinstance(codec.decode(pickled, "result", key), BaseException):
                body["exception"] = base64.b64encode(pickled).decode()
        except (SerializationError, RecursionError):
            pass  # its text still tells what happened
    for part in ("exception", "traceback"):  # what is left out, in this order, where the whole is above max_value_bytes
        try:
            return codec.encode(body, "result", key)
        except ValueTooLarge:
            body.pop(part, None)
            body.setdefault("traceback", "")
    return codec.encode({**body, "message": body["message"][:200]}, "result", key)


def seal_reason(backend: Backend, reason: str, run_id: RunId) -> bytes:
    """The envelope of a run that was refused or crashed: a reason and no exception of the user's."""
    return backend.codec.encode({"type": "", "message": reason, "traceback": ""}, "result", run_id)


def open_failure(backend: Backend, envelope: bytes, key: str, *, state: str = "failed") -> BaseException:
    """The exception of a failed run: the user's own where it can be rebuilt here, else ours with its type and message.

    The traceback of the process that raised it is attached as a note.
    """
    if not envelope:
        return CrashedRun("the run crashed") if state == "crashed" else RunFailed("the run failed")
    try:
        body = open_value(backend, envelope, "result", key)
    except KapstanError as error:
        return error
    error = _rebuild(backend, body, key)
    if error is None:
        text = f"{body['type']}: {body['message']}" if body["type"] else body["message"]
        error = CrashedRun(text) if state == "crashed" else RunFailed(text)
    if body["traceback"]:
        error.add_note(f"raised in the run:\n{body['traceback'].rstrip()}")
    return error


def _rebuild(backend: Backend, body: dict[str, Any], key: str) -> BaseException | None:
    if "exception" not in body:
        return None
    try:
        error = backend.codec.decode(base64.b64decode(body["exception"]), "result", key)
    except SerializationError:
        return None  # its class is not importable here
    return error if isinstance(error, BaseException) else None


def _printable(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  (a user's __str__)
        text = f"(its message cannot be printed: {type(error).__qualname__}.__str__ raises)"
    return text[:4000].encode(errors="replace").decode()


def _traceback(error: BaseException) -> str:
    """The user's frames of the traceback, the end of it if it is long."""
    try:
        lines = traceback.format_exception(type(error), error, _skip_ours(error))
    except Exception:  # noqa: BLE001  (a user's __str__ again)
        return ""
    return "".join(lines)[-_TRACEBACK_CHARACTERS:].encode(errors="replace").decode()


def _skip_ours(error: BaseException) -> Any:
    frames = error.__traceback__
    while frames is not None and str(frames.tb_frame.f_globals.get("__name__", "")).startswith("kapstan.engine"):
        frames = frames.tb_next
    return frames if frames is not None else error.__traceback__
