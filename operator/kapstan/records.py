"""A result that stands in a storage under a key of its own: what ``ResultStore`` reads and writes.

The object: 4 bytes of length and an envelope with the metadata (JSON), then the value as a sealed stream. Both are
signed for the key; the metadata hold the stream's nonce, so that neither can be exchanged for one of another time.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Generator
from typing import Any, NamedTuple
from urllib.parse import quote

from kapstan import sealed_stream, serializers
from kapstan.backend import Backend
from kapstan.errors import ConfigurationError, SignatureError
from kapstan.ports import Download, Upload
from kapstan.sealed_stream import Place, Stream
from kapstan.serializers import Serializer
from kapstan.store import named
from kapstan.store.keys import check_key

FORMAT = 1
_MOST_METADATA = 1 << 20
_WHOLE_BYTES = 1 << 20  # up to here an object is sent in one piece
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
    from kapstan import __version__

    used = serializer or serializers.chosen(value)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    metadata = Metadata(key, time.time(), expires, used.name, kind, __version__)
    nonce = sealed_stream.new_nonce()
    body = {"v": FORMAT, "nonce": nonce.hex(), **metadata._asdict()}
    sealed = backend.codec.encode(body, "result", _place(key, "metadata"))
    with _opened(backend, storage, key) as target:
        target.write(len(sealed).to_bytes(4, "big") + sealed)
        place = Place("result", _place(key, "value"))
        sealed_stream.write(backend.codec, value, target, place, nonce=nonce, what=what, serializer=used)
    return metadata


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
    with backend.objects(storage).download(object_key(storage, key)) as source:
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
    quoted = quote(key, safe=_SAFE)
    try:
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


def _place(key: str, part: str) -> str:
    return f"stored\0{part}\0{key}"  # no id of a run has such a character


@contextlib.contextmanager
def _opened(backend: Backend, storage: str, key: str) -> Generator[Upload]:
    """What a small object is gathered in, and a large one goes through."""
    target = _Gathering(backend, storage, object_key(storage, key))
    with target.uploads:
        yield target
        target.end()


class _Gathering:
    """Keeps what is written until it is much; then it uploads."""

    def __init__(self, backend: Backend, storage: str, key: str) -> None:
        named.check_apart("result_storage", storage, backend.settings, key)
        self._objects = backend.objects(storage)
        self._key = key
        self._small = io.BytesIO()
        self._target: Upload | None = None
        self.uploads = contextlib.ExitStack()

    def write(self, data: Any) -> None:
        if self._target is None and self._small.tell() + memoryview(data).nbytes > _WHOLE_BYTES:
            self._target = self.uploads.enter_context(self._objects.upload(self._key))
            self._target.write(self._small.getvalue())
        (self._target or self._small).write(data)

    def end(self) -> None:
        if self._target is None:
            self._objects.put(self._key, self._small.getvalue())
