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
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast, get_args

from kapstan.errors import SerializationError, SignatureError, UnreadableValue, ValueTooLarge
from kapstan.settings import Settings
from kapstan.signing_key import SigningKey, local_key, parse_key

FORMAT = b"\x01"
_OVERHEAD = 1 + 1 + 4 + 16
JSON, PICKLE, RAW, REFERENCE = b"j", b"p", b"b", b"r"
_SERIALIZERS = (JSON, PICKLE, RAW, REFERENCE)
Purpose = Literal["arguments", "result", "journal", "register", "value", "summary"]


class Reference(NamedTuple):
    """Stands for a value that is too large to ride along: an object in the store and the SHA-256 of its bytes."""

    key: str
    digest: str
    size: int


class _Hmac(NamedTuple):
    """HMAC-SHA256 (RFC 2104) with one key, begun: hashes that have taken in the key, the namespace and a purpose."""

    inner: dict[Purpose, Any]
    outer: Any

    @classmethod
    def begun(cls, secret: bytes, namespace: str) -> _Hmac:
        key = (secret if len(secret) <= 64 else hashlib.sha256(secret).digest()).ljust(64, b"\0")
        pad = bytes(byte ^ 0x36 for byte in key)
        places: dict[Purpose, bytes] = {purpose: f"{namespace}\0{purpose}".encode() for purpose in get_args(Purpose)}
        inner: dict[Purpose, Any] = {
            purpose: hashlib.sha256(pad + FORMAT + len(place).to_bytes(4, "big") + place)
            for purpose, place in places.items()
        }
        return cls(inner, hashlib.sha256(bytes(byte ^ 0x5C for byte in key)))

    def begun_at(self, serializer: bytes, purpose: Purpose, key: str) -> Any:
        """The inner hash of what stands in one place; it lacks the body."""
        place = key.encode()
        inner = self.inner[purpose].copy()
        inner.update(len(place).to_bytes(4, "big") + place + serializer)
        return inner

    def sign(self, serializer: bytes, body: bytes, purpose: Purpose, key: str) -> bytes:
        place = key.encode()  # as begun_at, without its call: every background run passes here
        inner = self.inner[purpose].copy()
        inner.update(len(place).to_bytes(4, "big") + place + serializer)
        inner.update(body)
        outer = self.outer.copy()
        outer.update(inner.digest())
        return outer.digest()[:16]


class Codec:
    """Encodes, signs, verifies and decodes for one namespace. Safe to share between threads.

    Args:
        keys: the current key first, then those before it that may still be read.
    """

    __slots__ = ("_allow_pickle", "_current", "_hmacs", "_max_bytes", "namespace")

    def __init__(
        self, namespace: str, keys: list[SigningKey], *, allow_pickle: bool = True, max_bytes: int = 64 * 1024 * 1024
    ) -> None:
        self.namespace = namespace
        self._hmacs = {key.key_id: _Hmac.begun(key.secret, namespace) for key in reversed(keys)}
        self._current = keys[0].key_id
        self._allow_pickle = allow_pickle
        self._max_bytes = max_bytes

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

    def encode(self, value: Any, purpose: Purpose, key: str, *, what: str = "value") -> bytes:
        """The signed envelope of ``value``: JSON where that round-trips exactly, else cloudpickle.

        Raises:
            SerializationError: pickling is not allowed or does not work; the message names ``what`` and its type.
            ValueTooLarge: more than ``max_value_bytes``.
        """
        return self.seal(*self.serialise(value, what), purpose, key)

    def serialise(self, value: Any, what: str) -> tuple[bytes, bytes]:
        """(serializer, body) of what ``encode`` seals, which raises nothing of its own.

        Raises:
            SerializationError, ValueTooLarge: as ``encode``.
        """
        if exact_json(value):
            serializer, body = JSON, _to_json(value)
        else:
            serializer, body = PICKLE, self._pickle(value, what)
        if len(body) > self._max_bytes:
            raise ValueTooLarge(
                f"{what} has {len(body):,} bytes serialised; the limit is {self._max_bytes:,} "
                "(KAPSTAN_MAX_VALUE_BYTES). Store it yourself and pass its key."
            )
        return serializer, body

    def decode(self, envelope: bytes, purpose: Purpose, key: str) -> Any:
        """The value of a verified envelope; a ``Reference`` for one that refers to the store.

        Raises:
            SignatureError: unsigned, another key, or moved here from another place.
            UnreadableValue: pickled where that is not allowed, or what was pickled cannot be loaded here.
        """
        serializer, body = self.open(envelope, purpose, key)
        if serializer == JSON:
            return _from_json(body)
        if serializer == PICKLE:
            return self._unpickle(body)
        if serializer == REFERENCE:
            return Reference(*json.loads(body))
        return body

    def refer(self, reference: Reference, purpose: Purpose, key: str) -> bytes:
        """The signed envelope that stands for an object in the store."""
        return self.seal(REFERENCE, json.dumps(list(reference)).encode(), purpose, key)

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
            SerializationError: it is not JSON.
        """
        serializer, body = self.open(envelope, purpose, key)
        if serializer != JSON:
            raise SerializationError(f"this {purpose} is not JSON but {describe(envelope)}")
        return _from_json(body)

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
                    return _from_json(body)
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

    # ------------------------------------------------------------------ pickle

    def _pickle(self, value: Any, what: str) -> bytes:
        if not self._allow_pickle:
            raise SerializationError(
                f"{what} ({_type_name(value)}) does not fit JSON exactly and KAPSTAN_ALLOW_PICKLE is false: "
                "pass str, int, finite float, bool, None, lists and string-keyed dicts of them"
            )
        from kapstan.pickling import dumps

        try:
            return dumps(value)
        except Exception as error:
            raise SerializationError(f"{what} ({_type_name(value)}) cannot be serialised: {error}") from error

    def _unpickle(self, body: bytes) -> Any:
        if not self._allow_pickle:
            raise UnreadableValue("this value is pickled and KAPSTAN_ALLOW_PICKLE is false")
        from kapstan.pickling import loads

        try:
            return loads(body)
        except Exception as error:
            raise UnreadableValue(f"a pickled value cannot be loaded here: {type(error).__name__}: {error}") from error


# The hot path of every background run: a scanner and an encoder made once. Both are the standard library's own parts,
# which its stubs leave out.
_plain = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_scan = cast("Any", json.JSONDecoder()).scan_once
_make_encoder = cast("Any", json.encoder).c_make_encoder
_encoder = _make_encoder and _make_encoder(
    None, _plain.default, json.encoder.encode_basestring, None, ":", ",", False, False, True
)


def _to_json(value: Any) -> bytes:
    """Compact JSON of a value that ``exact_json`` has passed (so it has no cycle)."""
    return ("".join(_encoder(value, 0)) if _encoder else _plain.encode(value)).encode()


def _from_json(body: bytes) -> Any:
    """The value of what ``_to_json`` gave."""
    return _scan(body.decode(), 0)[0]


def describe(envelope: bytes) -> str:
    """Kind and size of an envelope, unverified, for people."""
    names = {JSON: "JSON", PICKLE: "pickled", RAW: "bytes", REFERENCE: "a reference"}
    return f"{names.get(envelope[1:2], 'unknown')}, {max(0, len(envelope) - _OVERHEAD):,} bytes"


def refers_to_store(envelope: bytes) -> bool:
    """Whether its value is an object in the store, so that opening it takes time; unverified: opening it verifies."""
    return envelope[1:2] == REFERENCE


def fingerprint(envelope: bytes) -> str:
    """16 characters that are equal only for the same value in the same place: half of the signature."""
    return envelope[6:14].hex()


def exact_json(value: Any) -> bool:
    """Whether ``json.loads(json.dumps(value))`` gives an equal value of the same types all the way down, in which the
    same lists and dicts are one object."""
    return _exact(value, 0, set())


def _exact(value: Any, depth: int, seen: set[int]) -> bool:
    """``seen``: the containers met so far; one met twice is shared or holds itself, which JSON cannot say."""
    kind = cast("type[Any]", type(value))
    if kind is str:
        return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
    if kind is int:
        return value.bit_length() <= 1024
    if kind is bool or value is None:
        return True
    if kind is float:
        return math.isfinite(value)
    if depth > 100 or (kind is not list and kind is not dict) or id(value) in seen:
        return False
    seen.add(id(value))
    # Loops, since every background run passes here and a generator costs more than what it would look at; and most of
    # what they look at is checked here, since a call costs more than that, too.
    if kind is list:
        for item in value:
            if not (type(item) is str and item.isascii()) and not _exact(item, depth + 1, seen):
                return False
        return True
    for key, item in value.items():
        if type(key) is not str or not (key.isascii() or _exact(key, 0, seen)) or not _exact(item, depth + 1, seen):
            return False
    return True


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
