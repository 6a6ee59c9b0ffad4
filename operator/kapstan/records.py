"""A result that stands in a storage under a key of its own: what ``ResultStore`` reads and writes.

The object: 4 bytes of length and an envelope with the metadata (JSON), then the value as a sealed stream. Both are
signed for the key; the metadata hold the stream's nonce, so that neither can be exchanged for one of another time.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, cast
from urllib.parse import quote, unquote

from kapstan import sealed_stream, serializers
from kapstan.backend import Backend
from kapstan.errors import ConfigurationError, SignatureError
from kapstan.ports import Download, Objects
from kapstan.sealed_stream import Place, Stream
from kapstan.serializers import Serializer
from kapstan.store import named
from kapstan.store.keys import check_key

FORMAT = 1
_MOST_METADATA = 1 << 20
_WHOLE_BYTES = 1 << 20  # up to here an object is sent in one piece
_LONGEST_NAME = 255  # of a file, as a folder has it, and of a part of a key in MinIO
_SAFE = "/~@:!$&'()*+,;=._-"
PREFIX = "stored/"
"""Of the keys in the store of a namespace; in a storage that was named keys are as they were given."""


class Metadata(NamedTuple):
    """What is known of a stored result.

    Attributes:
        created, expires: Unix seconds by the clock of who wrote it; ``expires`` None: never.
        serializer: name of what wrote it.
        kind: class of the value, for people.
        version: of Kapstan.
    """

    key: str
    created: float
    expires: float | None
    serializer: str
    kind: str
    version: str

    def is_over(self, now: float) -> bool:
        return self.expires is not None and self.expires <= now


class _Sealing(NamedTuple):
    """A value on its way to its key."""

    metadata: Metadata
    fill: Callable[[Any], None]
    """Write the object to a file."""


def _sealing(
    backend: Backend, key: str, value: Any, serializer: Serializer | None, expires: float | None, what: str
) -> _Sealing:
    from kapstan import __version__

    used = serializer or serializers.chosen(value)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    metadata = Metadata(key, time.time(), expires, used.name, kind, __version__)

    def fill(target: Any) -> None:
        nonce = sealed_stream.new_nonce()
        body = {"v": FORMAT, "nonce": nonce.hex(), **metadata._asdict()}
        sealed = backend.codec.encode(body, "result", _place(key, "metadata"))
        target.write(len(sealed).to_bytes(4, "big") + sealed)
        place = Place("result", _place(key, "value"))
        sealed_stream.write(backend.codec, value, target, place, nonce=nonce, what=what, serializer=used)

    return _Sealing(metadata, fill)


def write(
    backend: Backend,
    storage: str,
    key: str,
    value: Any,
    *,
    serializer: Serializer | None = None,
    expires: float | None = None,
    what: str = "the result",
) -> Metadata:
    """Put ``value`` under ``key`` in a storage, in place of what was there.

    Raises:
        SerializationError, ValueTooLarge: the serializer does not carry it.
        BackendError: the storage does not take it.
    """
    sealing = _sealing(backend, key, value, serializer, expires, what)
    with _opened(backend, storage, key) as target:
        sealing.fill(target)
    return sealing.metadata


def write_new(
    backend: Backend, storage: str, key: str, value: Any, *, serializer: Serializer | None = None, what: str
) -> bool:
    """As ``write``, unless a result is there that is not over: of several at once, one is written. In an object of the
    user's that cannot be known for certain: what was written last stands.

    Raises:
        SignatureError: what is there was changed or moved.
        StoreUnsafe: as ``Store.upload_if``.
        SerializationError, ValueTooLarge, BackendError: as ``write``.
    """
    sealing = _sealing(backend, key, value, serializer, None, what)
    while True:
        with found(backend, storage, key) as there:
            if there is not None and not _is_over(backend, storage, there):
                return False
        version = ""
        if there is not None:  # it is over; read whole, to replace just that
            stored = backend.objects(storage).get(object_key(storage, key))
            if stored is None or not _is_over(backend, storage, _read(backend, key, io.BytesIO(stored.body))):
                continue
            version = stored.version
        with _opened(backend, storage, key, version) as target:
            sealing.fill(target)
        if target.is_there:
            return True


def check_write(
    backend: Backend, storage: str, key: str, value: Any, *, serializer: Serializer | None = None, what: str
) -> None:
    """Raise what ``write`` would for this key and value; nothing is written."""
    check_place(backend, storage, key)
    _sealing(backend, key, value, serializer, None, what).fill(_Nowhere())


class _Nowhere:
    def write(self, _: Any, /) -> None:
        return None


def _is_over(backend: Backend, storage: str, there: Found) -> bool:
    return there.metadata.expires is not None and there.metadata.is_over(now(backend, storage))


def now(backend: Backend, storage: str) -> float:
    """Unix seconds, by the clock of the storage where it has one: several machines write and read."""
    clock = getattr(backend.objects(storage), "now", None)
    return time.time() if clock is None else float(clock())


class Found(NamedTuple):
    """A stored result whose metadata were read; ``stream`` reads the value, once."""

    metadata: Metadata
    stream: Stream


@contextlib.contextmanager
def found(backend: Backend, storage: str, key: str) -> Generator[Found | None]:
    """What stands under ``key``, None if nothing does.

    Raises:
        SignatureError: it was changed or moved, or is signed by another key.
        BackendError: the storage does not answer.
    """
    with backend.objects(storage).download(check_place(backend, storage, key)) as source:
        yield None if source is None else _read(backend, key, source)


def _read(backend: Backend, key: str, source: Download) -> Found:
    size = int.from_bytes(length := source.read(4), "big")
    sealed = source.read(size) if len(length) == 4 and size <= _MOST_METADATA else b""
    if not sealed or len(sealed) < size:
        raise SignatureError(f"what stands under {key!r} was cut, or was not written by Kapstan")
    body = backend.codec.decode_json(sealed, "result", _place(key, "metadata"))
    metadata = Metadata(*(body.get(name) for name in Metadata._fields))
    stream = Stream(backend.codec, source, Place("result", _place(key, "value")), bytes.fromhex(body["nonce"]))
    return Found(metadata, stream)


def check(key: str) -> str:
    """``key`` as stores have it: characters that not every store takes are written as ``%20`` and the like.

    Raises:
        ConfigurationError: it is no relative path, or too long.
    """
    if not isinstance(cast("Any", key), str):
        raise ConfigurationError(f"the key {key!r} of a result cannot be: give a text, such as 'reports/may'")
    try:
        quoted = quote(key, safe=_SAFE)
        check_key(quoted)
        if quoted.partition("/")[0] in ("values", "registers", ".kapstan"):
            raise ValueError(f"{key!r} stands where Kapstan has its own objects")
    except ValueError as error:
        raise ConfigurationError(f"the key {key!r} of a result cannot be: {error}") from None
    return quoted


def object_key(storage: str, key: str) -> str:
    """Where a result stands in its storage.

    Raises:
        ConfigurationError: as ``check``.
    """
    return check(key) if storage else f"{PREFIX}{check(key)}"


def check_place(backend: Backend, storage: str, key: str) -> str:
    """Where a result stands in its storage, if it can.

    Raises:
        ConfigurationError: as ``check``; it is in the store of the namespace; or a part of it is too long there.
    """
    found = object_key(storage, key)
    named.check_apart("result_storage", storage, backend.settings, found)
    is_folder = storage.startswith("file:") if storage else not backend.settings.s3_endpoint
    if not storage.startswith("block:"):
        for part in found.split("/"):
            length = len(quote(part, safe="")) if is_folder else len(part)
            if length > _LONGEST_NAME:
                raise ConfigurationError(
                    f"the key {key!r} of a result cannot be: {unquote(part)!r} has {length} characters as the name of "
                    f"a {'file' if is_folder else 'part of a key'}, and {_LONGEST_NAME} is the most; put a slash into "
                    "it, or shorten it"
                )
    return found


def _place(key: str, part: str) -> str:
    return f"stored\0{part}\0{key}"  # no id of a run has such a character


@contextlib.contextmanager
def _opened(backend: Backend, storage: str, key: str, version: str | None = None) -> Generator[_Gathering]:
    """What a small object is gathered in, and a large one goes through.

    Args:
        version: it is written only in the place of this one, "" for none; None: whatever is there.
    """
    target = _Gathering(backend.objects(storage), check_place(backend, storage, key), version)
    with target.uploads:
        yield target
        target.end()


class _Gathering:
    """Keeps what is written until it is much; then it uploads.

    Attributes:
        is_there: in the end, whether it was written.
    """

    def __init__(self, objects: Objects, key: str, version: str | None) -> None:
        self._objects = objects
        self._key = key
        self._version = version
        self._small = io.BytesIO()
        self._target: Any = None
        self._is_there = True
        self._is_conditional = version is not None and hasattr(objects, "create")
        self.uploads = contextlib.ExitStack()

    @property
    def is_there(self) -> bool:
        return self._target.is_there if self._target is not None and self._is_conditional else self._is_there

    def write(self, data: Any) -> None:
        if self._target is None and self._small.tell() + memoryview(data).nbytes > _WHOLE_BYTES:
            store: Any = self._objects
            upload = store.upload_if(self._key, self._version) if self._is_conditional else store.upload(self._key)
            self._target = self.uploads.enter_context(upload)
            self._target.write(self._small.getvalue())
        (self._target or self._small).write(data)

    def end(self) -> None:
        if self._target is not None:
            return
        store: Any = self._objects
        body = self._small.getvalue()
        if not self._is_conditional:
            store.put(self._key, body)
        elif self._version:
            self._is_there = store.replace(self._key, body, self._version) is not None
        else:
            self._is_there = store.create(self._key, body)
