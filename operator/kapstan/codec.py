"""Values to bytes and back, signed. The one place that may unpickle, and only after the signature was verified.

An envelope: format (1 byte), serializer (1), key id (4), signature (16: HMAC-SHA256, cut), body. The signature covers
namespace, purpose, the key of the place it stands in, serializer and body, so that a valid envelope cannot be moved to
another run, task or purpose. Control plane and CLI read envelopes with ``Codec.describe`` or ``decode_json``, which
never unpickle.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from kapstan import serializers
from kapstan.errors import ConfigurationError, SerializationError, SignatureError, UnreadableValue, ValueTooLarge
from kapstan.exact_json import exact_json as exact_json
from kapstan.exact_json import text_of, value_of
from kapstan.serializers import Serializer
from kapstan.serializers.guarded import Bounded, reading, serialising, type_name
from kapstan.serializers.guarded import LongValue as LongValue
from kapstan.settings import Settings
from kapstan.signatures import FORMAT as FORMAT
from kapstan.signatures import Hmac
from kapstan.signatures import Purpose as Purpose
from kapstan.signing_key import SigningKey, local_key, parse_key

_OVERHEAD = 1 + 1 + 4 + 16
JSON, PICKLE, RAW, REFERENCE, NAMED, PIECE = b"j", b"p", b"b", b"r", b"n", b"s"
"""What the body is. ``NAMED``: the length (1 byte) and the name of a serializer, then its bytes; ``PIECE``: a part of a
sealed stream."""
_SERIALIZERS = (JSON, PICKLE, RAW, REFERENCE, NAMED, PIECE)


class Reference(NamedTuple):
    """Stands for a value that is too large to ride along: an object in the store.

    Attributes:
        digest: SHA-256 of its bytes; of one that is a sealed stream ``stream:`` and its nonce.
        storage: the result storage that it is in, "" for the store of the namespace.
    """

    key: str
    digest: str
    size: int
    storage: str = ""


class Codec:
    """Encodes, signs, verifies and decodes for one namespace. Safe to share between threads.

    Args:
        keys: the current key first, then those before it that may still be read.
    """

    __slots__ = ("_current", "_hmacs", "allow_pickle", "max_bytes", "namespace")

    def __init__(
        self, namespace: str, keys: list[SigningKey], *, allow_pickle: bool = True, max_bytes: int = 64 * 1024 * 1024
    ) -> None:
        self.namespace = namespace
        self._hmacs = {key.key_id: Hmac.begun(key.secret, namespace) for key in reversed(keys)}
        self._current = keys[0].key_id
        self.allow_pickle = allow_pickle
        self.max_bytes = max_bytes

    @classmethod
    def from_settings(cls, settings: Settings) -> Codec:
        """The codec of these settings; makes the local key at first use.

        Raises:
            ConfigurationError: a key that is not base64 of at least 32 bytes.
        """
        keys = (
            [parse_key("KAPSTAN_SIGNING_KEY", settings.signing_key)]
            if settings.signing_key
            else [local_key(settings.home_path)]
        )
        previous = settings.signing_key_previous.replace(",", " ").split()
        keys += [parse_key("KAPSTAN_SIGNING_KEY_PREVIOUS", text) for text in previous]
        return cls(settings.namespace, keys, allow_pickle=settings.allow_pickle, max_bytes=settings.max_value_bytes)

    # ------------------------------------------------------------------ values

    def encode(
        self,
        value: Any,
        purpose: Purpose,
        key: str,
        *,
        what: str = "value",
        serializer: Serializer | None = None,
        most: int = 0,
    ) -> bytes:
        """The signed envelope of ``value``; without a ``serializer`` JSON where that round-trips exactly, npy
        or Arrow for an array or table that they carry, else cloudpickle.

        Raises:
            LongValue: more than ``most`` bytes, of which no more were made; 0: no such limit.
            SerializationError: pickling is not allowed, or the serializer does not carry it; the message names ``what``
                and its type.
            ValueTooLarge: more than ``max_value_bytes``.
        """
        return self.seal(*self.serialise(value, what, serializer, most), purpose, key)

    def serialise(
        self, value: Any, what: str, serializer: Serializer | None = None, most: int = 0
    ) -> tuple[bytes, bytes]:
        """(serializer, body) of what ``encode`` seals, which raises nothing of its own.

        Raises:
            LongValue, SerializationError, ValueTooLarge: as ``encode``.
        """
        if serializer is not None:
            kind, body = self._named(value, what, serializer, most)
        elif exact_json(value):
            text = text_of(value)
            if most and len(text) > most:
                raise LongValue
            kind, body = JSON, text.encode()
        elif (library := serializers.of_library(value)) is not None:
            kind, body = self._named(value, what, library, most)
        else:
            kind, body = PICKLE, self._pickle(value, what, most)
        if len(body) > self.max_bytes:
            raise self.too_large(what, len(body))
        return kind, body

    def too_large(self, what: str, size: int) -> ValueTooLarge:
        return ValueTooLarge(
            f"{what} has {size:,} bytes serialised; the limit is {self.max_bytes:,} (KAPSTAN_MAX_VALUE_BYTES). Store "
            "it yourself and pass its key."
        )

    def decode(self, envelope: bytes, purpose: Purpose, key: str) -> Any:
        """The value of a verified envelope; a ``Reference`` for one that refers to the store.

        Raises:
            SignatureError: unsigned, another key, or moved here from another place.
            UnreadableValue: pickled where that is not allowed, or what was pickled cannot be loaded here.
        """
        serializer, body = self.open(envelope, purpose, key)
        if serializer == JSON:
            return value_of(body.decode())
        if serializer == PICKLE:
            return self._unpickle(body)
        if serializer == REFERENCE:
            return Reference(*json.loads(body))
        if serializer == NAMED:
            return self._read_named(body)
        if serializer == PIECE:
            raise UnreadableValue(f"this is a piece of the {purpose} of {key!r}, not the whole of it")
        return body

    def refer(self, reference: Reference, purpose: Purpose, key: str) -> bytes:
        """The signed envelope that stands for an object in the store."""
        parts = list(reference if reference.storage else reference[:3])
        return self.seal(REFERENCE, json.dumps(parts).encode(), purpose, key)

    def reference(self, envelope: bytes, purpose: Purpose, key: str) -> Reference | None:
        """Where the value stands if ``envelope`` only refers to it, else None. Unpickles nothing.

        Raises:
            SignatureError: as ``decode``.
        """
        serializer, body = self.open(envelope, purpose, key)
        return Reference(*json.loads(body)) if serializer == REFERENCE else None

    def decode_json(self, envelope: bytes, purpose: Purpose, key: str) -> Any:
        """The value, if it is JSON; what never may unpickle reads with this.

        Raises:
            SignatureError: as ``decode``.
            SerializationError: it is not JSON, plain or compressed.
        """
        serializer, body = self.open(envelope, purpose, key)
        if serializer == JSON:
            return value_of(body.decode())
        if serializer == NAMED and self.reader(_name_in(body)).is_json:
            return self._read_named(body)
        raise SerializationError(f"this {purpose} is not JSON but {describe(envelope)}")

    def json_reader(self, purpose: Purpose, key: str) -> Callable[[bytes], Any]:
        """``decode_json`` for the envelopes of one place, at two thirds of the price: a resume reads ten thousand."""
        head, current = FORMAT + JSON + self._current, self._hmacs[self._current]
        inner, outer = current.begun_at(JSON, purpose, key), current.outer

        def read(envelope: bytes) -> Any:
            if envelope[:6] == head:
                body = envelope[_OVERHEAD:]
                taken, whole = inner.copy(), outer.copy()
                taken.update(body)
                whole.update(taken.digest())
                if hmac.compare_digest(envelope[6:22], whole.digest()[:16]):
                    return value_of(body.decode())
            return self.decode_json(envelope, purpose, key)  # of a key before this one; or it says what is wrong

        return read

    # ------------------------------------------------------------------ envelopes

    def seal(self, serializer: bytes, body: bytes, purpose: Purpose, key: str) -> bytes:
        """Sign ``body`` for its place."""
        key_id = self._current
        return FORMAT + serializer + key_id + self._hmacs[key_id].sign(serializer, body, purpose, key) + body

    def open(self, envelope: bytes, purpose: Purpose, key: str) -> tuple[bytes, bytes]:
        """(serializer, body) of an envelope whose signature holds for this place.

        Raises:
            SignatureError: see ``decode``.
        """
        if len(envelope) < _OVERHEAD or envelope[1:2] not in _SERIALIZERS:
            raise SignatureError(f"the {purpose} of {key!r} is not signed; it was not written by Kapstan")
        if envelope[:1] != FORMAT:
            raise SignatureError(
                f"the {purpose} of {key!r} has envelope format {envelope[0]}; this release reads {FORMAT[0]}"
            )
        known = self._hmacs.get(envelope[2:6])
        if known is None:
            raise SignatureError(
                f"the {purpose} of {key!r} is signed by key {envelope[2:6].hex()}, which is not of namespace "
                f"{self.namespace!r}; set KAPSTAN_SIGNING_KEY to the key that it was signed with, or add that key to "
                "KAPSTAN_SIGNING_KEY_PREVIOUS"
            )
        serializer, body = envelope[1:2], envelope[_OVERHEAD:]
        if not hmac.compare_digest(envelope[6:22], known.sign(serializer, body, purpose, key)):
            raise SignatureError(f"the signature of the {purpose} of {key!r} does not hold: it was changed or moved")
        return serializer, body

    # ------------------------------------------------------------------ serializers

    def _named(self, value: Any, what: str, serializer: Serializer, most: int) -> tuple[bytes, bytes]:
        """(serializer, body) of a value that a chosen serializer writes; the plain two have envelopes of their own."""
        self.may_write(serializer, what)
        target = Bounded(most)
        with serialising(what, value, serializer.name):
            serializer.dump(value, target)
        body = b"".join(target.pieces)
        name = serializer.name.encode()
        if name in (b"json", b"pickle"):
            return JSON if name == b"json" else PICKLE, body
        return NAMED, bytes([len(name)]) + name + body

    def may_write(self, serializer: Serializer, what: str) -> None:
        """Raises:
        SerializationError: it pickles, and that is not allowed.
        """
        if serializer.unpickles and not self.allow_pickle:
            raise SerializationError(f"{what}: {serializer.name!r} pickles, and KAPSTAN_ALLOW_PICKLE is false")

    def reader(self, name: str) -> Serializer:
        """What reads the bytes that a serializer of that name has written.

        Raises:
            UnreadableValue: no class here has that name, or it pickles, and that is not allowed.
        """
        try:
            serializer = serializers.named(name)
        except ConfigurationError as error:
            raise UnreadableValue(f"a value cannot be read here: {error}") from error
        if serializer.unpickles and not self.allow_pickle:
            raise UnreadableValue("this value is pickled and KAPSTAN_ALLOW_PICKLE is false")
        return serializer

    def _read_named(self, body: bytes) -> Any:
        name = _name_in(body)
        serializer = self.reader(name)
        with reading(name):
            return serializer.loads(body[1 + body[0] :])

    def _pickle(self, value: Any, what: str, most: int) -> bytes:
        if not self.allow_pickle:
            raise SerializationError(
                f"{what} ({type_name(value)}) does not fit JSON exactly and KAPSTAN_ALLOW_PICKLE is false: "
                "pass str, int, finite float, bool, None, lists and string-keyed dicts of them"
            )
        from kapstan.pickling import dump

        target = Bounded(most)
        with serialising(what, value):
            dump(value, target)
        return b"".join(target.pieces)

    def _unpickle(self, body: bytes) -> Any:
        if not self.allow_pickle:
            raise UnreadableValue("this value is pickled and KAPSTAN_ALLOW_PICKLE is false")
        from kapstan.pickling import loads

        with reading("pickle"):
            return loads(body)


def _name_in(body: bytes) -> str:
    return body[1 : 1 + (body[0] if body else 0)].decode(errors="replace")


def describe(envelope: bytes) -> str:
    """Kind and size of an envelope, unverified, for people."""
    names = {JSON: "JSON", PICKLE: "pickled", RAW: "bytes", REFERENCE: "a reference", PIECE: "a piece of a value"}
    kind, body = names.get(envelope[1:2], "unknown"), envelope[_OVERHEAD:]
    if envelope[1:2] == NAMED and body:
        kind, body = f"written by {body[1 : 1 + body[0]].decode(errors='replace')!r}", body[1 + body[0] :]
    return f"{kind}, {len(body):,} bytes"


def refers_to_store(envelope: bytes) -> bool:
    """Whether its value is an object in the store, so that opening it takes time; unverified: opening it verifies."""
    return envelope[1:2] == REFERENCE


def sealed_size(body: bytes) -> int:
    """How long the envelope of ``body`` is."""
    return _OVERHEAD + len(body)


def fingerprint(envelope: bytes) -> str:
    """16 characters that are equal only for the same value in the same place: half of the signature."""
    return envelope[6:14].hex()


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
