"""Arguments, results and failures as signed envelopes: small ones ride along, large ones become an object in the store.

Called by the engine, by futures and by whoever submits. A failure is JSON (type, message, traceback), so that control
plane and CLI can show it; where pickle is allowed it also carries the exception itself for whoever waits in Python.
"""

from __future__ import annotations

import base64
import traceback
from typing import Any, NamedTuple, cast

from kapstan import pickling
from kapstan.backend import Backend
from kapstan.codec import PICKLE, Purpose, Reference, digest
from kapstan.errors import (
    CrashedRun,
    KapstanError,
    RunFailed,
    SignatureError,
    UnreadableValue,
    ValueTooLarge,
)
from kapstan.exception_state import is_group
from kapstan.identity import find, importable_name
from kapstan.ids import RunId, new_id
from kapstan.runs.stored import FAILURE, UNREADABLE, is_failure, opened, readable
from kapstan.runs.stored import arguments_key as arguments_key
from kapstan.store import marks

_TRACEBACK_CHARACTERS = 16_000
_PLACE = "\0"
_EXCEPTION = "\0exception"


def seal_value(backend: Backend, value: Any, purpose: Purpose, key: str, *, owner: RunId = "", what: str) -> bytes:
    """The envelope of ``value``, signed for ``key`` (the id of its run); above ``inline_bytes`` an envelope that
    refers to the store. ``owner``: as ``to_store``.

    Raises:
        SerializationError: no allowed serializer carries it; the message names ``what``.
        ValueTooLarge: more than ``max_value_bytes``.
        StoreUnavailable: it is large and the store is away.
    """
    envelope = backend.codec.encode(value, purpose, key, what=what)
    return (
        envelope if len(envelope) <= backend.settings.inline_bytes else to_store(backend, envelope, purpose, key, owner)
    )


def to_store(
    backend: Backend,
    envelope: bytes,
    purpose: Purpose,
    key: str,
    owner: RunId = "",
    storage: str = "",
    *,
    swept: bool = True,
) -> bytes:
    """Write ``envelope`` under a name of its own, beside the others of its run, and return one that refers to it.

    ``owner``, ``swept``: as ``new_name``. ``storage``: as ``Backend.objects``.
    """
    name = new_name(backend, key, owner, storage, swept=swept)
    backend.objects(storage).put(name, envelope)
    return backend.codec.refer(Reference(name, digest(envelope), len(envelope), storage), purpose, key)


def new_name(backend: Backend, key: str, owner: RunId = "", storage: str = "", *, swept: bool = True) -> str:
    """A name for a value that says who may need it: ``owner``, the flow run in whose journal the reference may stand
    (default: the run itself), and the run. Retention deletes what neither of them needs any more.

    A value of a register, whose ``key`` is the register's path, stands elsewhere: no age of a run ends it. In a
    ``storage`` all stands in the folder that is this namespace's own there.

    Args:
        swept: whether retention can tell who needs it; not of a register that is in another storage itself.

    Raises:
        StoreUnavailable, StoreRefused: whether that folder is known cannot be asked now.
    """
    folder, _, rest = key.partition("/")
    if rest:
        assert folder == "registers", key
        name = f"results/{rest}/{new_id()}"
    else:
        run_id = key.partition(_PLACE)[0]
        name = f"values/{owner or run_id}/{run_id}/{new_id()}"
    if not storage:
        return name
    can_be_swept = swept and not storage.startswith("block:")
    return f"{marks.folder_of(backend.mark(storage) if can_be_swept else marks.UNSWEPT)}{name}"


def open_value(backend: Backend, envelope: bytes, purpose: Purpose, key: str) -> Any:
    """The value of ``envelope``, fetched from the store if it refers there.

    Raises:
        Unreadable: it can never be read here: UnreadableValue (its class is gone), SignatureError (also an object that
            is not the one referred to), MissingResult (the object is gone).
        StoreUnavailable, StoreRefused: it cannot be read now.
    """
    value = backend.codec.decode(envelope, purpose, key)
    if type(value) is Reference:
        return opened(backend, value, purpose, key)
    return value


def open_result(backend: Backend, envelope: bytes, key: str) -> Any:
    """As ``open_value``, of a run that Redis says has completed.

    Raises:
        SignatureError: also where it failed: somebody changed how it ended.
    """
    value = open_value(backend, envelope, "result", key)
    if is_failure(value):
        raise SignatureError(f"run {key} failed, and is shown as completed: its record was changed")
    return value


class SealedFailure(NamedTuple):
    """A failure as it is kept.

    Attributes:
        envelope: signed; refers to the store where it is large.
        replayed: what a flow that is resumed by another process will see in its place: the exception itself if it comes
            back as it is, else what is left of it. A flow that can be resumed must see the same at its first run.
    """

    envelope: bytes
    replayed: BaseException


def seal_failure(
    backend: Backend, error: BaseException, key: str, *, owner: RunId = "", register: str = ""
) -> SealedFailure:
    """The failure of run ``key``; above ``inline_bytes`` an envelope that refers to the store. ``owner``: as
    ``to_store``. ``register``: as ``Keeping.sealed``.

    Raises:
        StoreUnavailable, StoreRefused: it is large and the store does not take it.
    """
    envelope, replayed = whole_failure(backend, error, key)
    if len(envelope) > backend.settings.inline_bytes:
        envelope = to_store(backend, envelope, "result", key, owner, register, swept=not register)
    return SealedFailure(envelope, replayed)


def whole_failure(backend: Backend, error: BaseException, key: str) -> SealedFailure:
    """As ``seal_failure``, however large the envelope is; touches no store."""
    return SealedFailure(*_sealed(backend, error, key))


def failure_envelope(backend: Backend, error: BaseException, key: str) -> bytes:
    """The envelope of a failure, signed for ``key`` and whole; never raises for what the exception holds."""
    return _sealed(backend, error, key)[0]


def _sealed(backend: Backend, error: BaseException, key: str) -> tuple[bytes, BaseException]:
    body: dict[str, Any] = {
        FAILURE: 1,
        "type": type(error).__qualname__,
        "message": printable(error),
        "traceback": _traceback(error),
    }
    lost: list[str] = []
    replayed: BaseException = RunFailed(_reason_in(body))
    if backend.settings.allow_pickle:
        try:
            pickled, rebuilt = pickling.dumps_exception(error, lost.append)
            body["exception"] = base64.b64encode(
                backend.codec.seal(PICKLE, pickled, "result", key + _EXCEPTION)
            ).decode()
            body["lost"] = lost
            body["local"] = not _findable(error)
            if not body["local"]:
                replayed = _noted(rebuilt, lost) if lost else error
        except Exception:  # noqa: BLE001  (whatever a user's class raises); its text still tells what happened
            body.pop("exception", None)
    envelope = _within_limit(backend, body, key)
    if "exception" not in body:
        replayed = RunFailed(_reason_in(body))
    if replayed is not error:
        replayed.__cause__ = error
        replayed.__traceback__ = error.__traceback__
    return envelope, replayed


def _within_limit(backend: Backend, body: dict[str, Any], key: str) -> bytes:
    """The envelope of ``body``, from which is taken in this order what makes it larger than ``max_value_bytes``."""
    for part in ("exception", "traceback"):
        try:
            return backend.codec.encode(body, "result", key)
        except ValueTooLarge:
            body.pop(part, None)
            body.setdefault("traceback", "")
    body["message"] = body["message"][:200]
    return backend.codec.encode(body, "result", key)


def _findable(error: BaseException) -> bool:
    """Whether another process that runs the same code has the class of ``error``, and of those in a group."""
    inside: tuple[BaseException, ...] = getattr(error, "exceptions", ()) if is_group(error) else ()
    kind = type(error)
    return all(map(_findable, inside)) and find(importable_name(kind.__module__), kind.__qualname__) is kind


def _noted(error: BaseException, lost: list[str]) -> BaseException:
    if lost:
        error.add_note(f"not kept, since it cannot be pickled: {', '.join(lost)}")
    return error


def _reason_in(body: dict[str, Any]) -> str:
    return f"{body['type']}: {body['message']}" if body["type"] else body["message"]


def seal_reason(backend: Backend, reason: str, run_id: RunId) -> bytes:
    """The envelope of a run that was refused or crashed: a reason and no exception of the user's."""
    return backend.codec.encode({FAILURE: 1, "type": "", "message": reason, "traceback": ""}, "result", run_id)


def open_failure(
    backend: Backend, envelope: bytes, key: str, *, state: str = "failed", replay: bool = False
) -> BaseException:
    """The exception of a failed run: the user's own where it can be rebuilt here, else ours with its type and message.

    The traceback of the process that raised it is attached as a note.

    Args:
        replay: a resumed flow goes on with it: it is ``SealedFailure.replayed``, or an error is raised.

    Raises:
        Unreadable: with ``replay``: it can never be read here, as when its class is gone.
        StoreUnavailable, StoreRefused: with ``replay``: it cannot be read now.
    """
    if not envelope:
        return UnreadableValue(f"the run crashed: {UNREADABLE}") if state == "crashed" else RunFailed("the run failed")
    try:
        body = _failure(open_value(backend, envelope, "result", key), key)
        error = None if replay and body.get("local") else _rebuild(backend, body, key)
    except UnreadableValue:
        if replay:
            raise
        body, error = _failure(readable(backend, envelope, "result", key), key), None
    except KapstanError as unread:
        if replay:
            raise
        return unread
    if error is None:
        error = CrashedRun(_reason_in(body)) if state == "crashed" else RunFailed(_reason_in(body))
    if body["traceback"]:
        error.add_note(f"raised in the run:\n{body['traceback'].rstrip()}")
    return error


def _failure(value: Any, key: str) -> dict[str, Any]:
    """
    Raises:
        SignatureError: it tells of no failure.
    """
    body = cast("dict[str, Any]", value) if type(value) is dict else {}
    if is_failure(body) or {"type", "message", "traceback"} <= body.keys():
        return body
    raise SignatureError(f"run {key} completed, and is shown as failed: its record was changed")


def _rebuild(backend: Backend, body: dict[str, Any], key: str) -> BaseException | None:
    """
    Raises:
        UnreadableValue: its class is not importable here.
    """
    if "exception" not in body:
        return None
    sealed = base64.b64decode(body["exception"])
    # What was written before failures had a mark is signed for the run itself, as its result is.
    error = backend.codec.decode(sealed, "result", key + _EXCEPTION if is_failure(body) else key)
    return _noted(error, body.get("lost") or []) if isinstance(error, BaseException) else None


def times(count: int) -> str:
    """How often, for messages: ``once``, ``3 times``."""
    return "once" if count == 1 else f"{count} times"


def printable(error: BaseException) -> str:
    """The message of ``error``, whatever its ``__str__`` does."""
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
