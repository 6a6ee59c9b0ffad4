"""A large value as a stream of signed pieces, so that neither writer nor reader holds its bytes as a whole.

The stream: a head, which holds a nonce and the name of the serializer, then the pieces; each is 4 bytes of length and
an envelope (``codec``) that is signed for the place of the whole. A piece holds the nonce, its number and whether it is
the last one, so that a stream that was cut, joined or put in another order is recognised at the first wrong piece. A
reader sees verified bytes only.
"""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

from kapstan.codec import PIECE, Codec, Purpose
from kapstan.errors import SignatureError
from kapstan.piecewise import Pieces
from kapstan.serializers import Serializer
from kapstan.serializers.base import Source, Target
from kapstan.serializers.guarded import reading, serialising

_PIECE_BYTES = 1 << 20
_NONCE_BYTES = 16
_HEAD = b"head"
_MOST = 2 * _PIECE_BYTES
_DIGEST = "stream:"


class Place(NamedTuple):
    """What a stream is signed for."""

    purpose: Purpose
    key: str


def digest_of(nonce: bytes) -> str:
    """What a ``Reference`` to a stream holds in place of a digest: it is that very stream."""
    return _DIGEST + nonce.hex()


def nonce_in(digest: str) -> bytes | None:
    """The nonce of a ``Reference`` to a stream, None for one to a whole envelope."""
    return bytes.fromhex(digest.removeprefix(_DIGEST)) if digest.startswith(_DIGEST) else None


def new_nonce() -> bytes:
    return secrets.token_bytes(_NONCE_BYTES)


def write(
    codec: Codec, value: Any, target: Target, place: Place, *, nonce: bytes, what: str, serializer: Serializer
) -> int:
    """Write ``value`` to ``target`` in pieces; how many bytes it has serialised.

    Raises:
        SerializationError: the serializer does not carry it, or may not.
        ValueTooLarge: more than ``max_value_bytes``.
        BackendError: as ``target.write`` does.
    """
    codec.may_write(serializer, what)
    pieces = _Writer(codec, target, place, nonce, what)
    pieces.begin(serializer.name)
    with serialising(what, value, serializer.name):
        serializer.dump(value, pieces)
    return pieces.end()


class _Writer:
    def __init__(self, codec: Codec, target: Target, place: Place, nonce: bytes, what: str) -> None:
        self._codec = codec
        self._target = target
        self._place = place
        self._nonce = nonce
        self._what = what
        self._held = bytearray()
        self._number = 0
        self._size = 0

    def begin(self, name: str) -> None:
        self._put(_HEAD + self._nonce + name.encode())

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._size += len(view)
        if self._size > self._codec.max_bytes:
            raise self._codec.too_large(self._what, self._size)
        for start in range(0, len(view), _PIECE_BYTES):
            self._held += view[start : start + _PIECE_BYTES]
            while len(self._held) > _PIECE_BYTES:  # the last piece is one that something may still follow
                # Both are released: the traceback of a write that was tried again may refer to them still.
                with memoryview(self._held) as held, held[:_PIECE_BYTES] as piece:
                    self._piece(piece, last=False)
                del self._held[:_PIECE_BYTES]
        return len(view)

    def end(self) -> int:
        self._piece(self._held, last=True)
        return self._size

    def _piece(self, data: Any, *, last: bool) -> None:
        self._put(b"".join((self._nonce, self._number.to_bytes(8, "big"), bytes([last]), data)))
        self._number += 1

    def _put(self, body: bytes) -> None:
        envelope = self._codec.seal(PIECE, body, *self._place)
        self._target.write(len(envelope).to_bytes(4, "big"))
        self._target.write(envelope)


class Stream:
    """A stream that is being read.

    Args:
        nonce: of the stream that it must be; None takes any that was written for this place.

    Attributes:
        serializer: name of what wrote it.

    Raises:
        SignatureError: it is none, or one of another place or nonce; it was cut or changed.
    """

    def __init__(self, codec: Codec, source: Source, place: Place, nonce: bytes | None = None) -> None:
        self._codec = codec
        self._source = source
        self._place = place
        self._number = 0
        self._ended = False
        self._where = f"the {place.purpose} of {place.key.replace(chr(0), '/')!r}"
        head = self._envelope()
        if head[:4] != _HEAD:
            raise SignatureError(f"{self._where} does not begin where it should: it was changed")
        self._nonce, self.serializer = head[4:20], head[20:].decode()
        if nonce is not None and nonce != self._nonce:
            raise SignatureError(f"{self._where} is not the one that was stored: another one stands in its place")

    @property
    def nonce(self) -> bytes:
        return self._nonce

    def value(self) -> Any:
        """The value; whatever is wrong with the rest of the stream is raised instead.

        Raises:
            SignatureError: it was cut or changed.
            UnreadableValue: it cannot be loaded here.
        """
        pieces = Pieces(self._more)
        serializer = self._codec.reader(self.serializer)
        with reading(self.serializer):
            value = serializer.load(pieces)
            while pieces.read(_PIECE_BYTES):
                pass
        return value

    def _more(self) -> bytes:
        while not self._ended:
            body = self._envelope()
            expected = self._nonce + self._number.to_bytes(8, "big")
            if body[:24] != expected or len(body) < 25:
                raise SignatureError(f"{self._where} has a wrong piece {self._number}: it was changed")
            self._number += 1
            self._ended = bool(body[24])
            if self._ended and self._source.read(1):
                raise SignatureError(f"{self._where} goes on after its end: it was changed")
            if len(body) > 25:
                return body[25:]
        return b""

    def _envelope(self) -> bytes:
        size = int.from_bytes(length := self._source.read(4), "big")
        if len(length) < 4:
            raise SignatureError(f"{self._where} was cut: it ends after {self._number} pieces")
        if size > _MOST:
            raise SignatureError(f"{self._where} is no stream of pieces: it was changed, or not written by Kapstan")
        envelope = self._source.read(size)
        if len(envelope) < size:
            raise SignatureError(f"{self._where} was cut: it ends after {self._number} pieces")
        kind, body = self._codec.open(envelope, *self._place)
        if kind != PIECE:
            raise SignatureError(f"{self._where} holds something else than pieces: it was changed")
        return body
