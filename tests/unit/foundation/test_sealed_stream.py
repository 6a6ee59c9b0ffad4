"""Large values as streams of signed pieces: cut, changed, joined, moved and swapped ones are told, at every place."""

from __future__ import annotations

import io
import random
import secrets
from collections.abc import Callable
from typing import Any

import pytest

from kapstan import sealed_stream
from kapstan.codec import Codec
from kapstan.errors import SerializationError, SignatureError, UnreadableValue, ValueTooLarge
from kapstan.sealed_stream import Place, Stream
from kapstan.serializers import Serializer, named
from kapstan.signing_key import SigningKey

PLACE = Place("result", "run")
PIECE = 1 << 20


def make(namespace: str = "shop", keys: list[SigningKey] | None = None, **options: Any) -> Codec:
    return Codec(namespace, keys or [KEY], **options)


KEY = SigningKey(b"k" * 4, b"s" * 32)


def written(value: Any, codec: Codec | None = None, place: Place = PLACE, by: str = "pickle") -> tuple[bytes, bytes]:
    file, nonce = io.BytesIO(), sealed_stream.new_nonce()
    sealed_stream.write(codec or make(), value, file, place, nonce=nonce, what="it", serializer=named(by))
    return file.getvalue(), nonce


def read(body: bytes, codec: Codec | None = None, place: Place = PLACE, nonce: bytes | None = None) -> Any:
    return Stream(codec or make(), io.BytesIO(body), place, nonce).value()


@pytest.mark.parametrize("size", [0, 1, PIECE - 20, PIECE, PIECE + 1, 3 * PIECE])
@pytest.mark.parametrize("by", ["pickle", "compressed/pickle", "json"])
def test_a_value_comes_back(size: int, by: str) -> None:
    value: Any = secrets.token_hex(size // 2 + 1) if by == "json" else secrets.token_bytes(size)
    body, nonce = written(value, by=by)
    assert read(body, nonce=nonce) == value


class TriesAgain(io.BytesIO):
    """Keeps the error of a try that failed, as a cycle of its traceback does until it is collected."""

    def __init__(self) -> None:
        super().__init__()
        self.failed: list[OSError] = []

    def write(self, data: Any) -> int:
        try:
            raise OSError("nobody answers")
        except OSError as error:
            self.failed.append(error)
        return super().write(data)


def test_a_target_may_try_again() -> None:
    value, file, nonce = secrets.token_bytes(3 * PIECE), TriesAgain(), sealed_stream.new_nonce()
    sealed_stream.write(make(), value, file, PLACE, nonce=nonce, what="it", serializer=named("pickle"))
    assert len(file.failed) > 3
    assert read(file.getvalue(), nonce=nonce) == value


def test_no_bytes_can_be_missing_or_another() -> None:
    value = secrets.token_bytes(2 * PIECE + 77)
    body, nonce = written(value)
    places = [*range(64), *random.Random(7).sample(range(len(body)), 100), len(body) - 1]
    for at in places:
        with pytest.raises(SignatureError, match="cut"):
            read(body[:at], nonce=nonce)
        with pytest.raises(SignatureError):
            read(body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :], nonce=nonce)
    for longer in (body + b"x", body + body):
        with pytest.raises(SignatureError, match="goes on after its end"):
            read(longer, nonce=nonce)


def pieces_of(body: bytes) -> list[bytes]:
    found = []
    while body:
        size = 4 + int.from_bytes(body[:4], "big")
        found.append(body[:size])
        body = body[size:]
    return found


@pytest.mark.parametrize(
    "change",
    [
        lambda p, _: [p[0], *p[2:]],
        lambda p, _: p[:-1],
        lambda p, _: [p[0], p[2], p[1], *p[3:]],
        lambda p, _: [*p[:2], p[1], *p[2:]],
        lambda p, other: [p[0], other[1], *p[2:]],
        lambda p, other: [other[0], *p[1:]],
        lambda p, _: p[1:],
        lambda p, _: p[:1],
    ],
    ids=["one missing", "the last missing", "exchanged", "twice", "of another", "head of another", "no head", "a head"],
)
def test_pieces_are_in_their_order_and_of_one_stream(change: Callable[[list[bytes], list[bytes]], list[bytes]]) -> None:
    value = secrets.token_bytes(3 * PIECE)
    body, other = written(value)[0], written(value)[0]
    assert len(pieces_of(body)) == 5
    with pytest.raises(SignatureError):
        read(b"".join(change(pieces_of(body), pieces_of(other))))


def test_a_stream_that_was_moved_is_none() -> None:
    body, nonce = written([1])
    for wrong in (Place("result", "run2"), Place("arguments", "run")):
        with pytest.raises(SignatureError):
            read(body, place=wrong)
    with pytest.raises(SignatureError):
        read(body, make("another namespace"))
    with pytest.raises(SignatureError, match="KAPSTAN_SIGNING_KEY_PREVIOUS"):
        read(body, make(keys=[SigningKey(b"l" * 4, b"t" * 32)]))
    with pytest.raises(SignatureError, match="another one stands in its place"):
        read(written([1])[0], nonce=nonce)
    envelope = make().encode([1], *PLACE)
    with pytest.raises(SignatureError):  # a whole envelope of the very place
        read(len(envelope).to_bytes(4, "big") + envelope)
    with pytest.raises(UnreadableValue, match="a piece of the result"):
        make().decode(pieces_of(body)[1][4:], *PLACE)
    assert read(body, make(keys=[SigningKey(b"l" * 4, b"t" * 32), KEY]), nonce=nonce) == [1]


def test_the_limit_holds() -> None:
    with pytest.raises(ValueTooLarge, match=r"the result of buy|it has .*KAPSTAN_MAX_VALUE_BYTES"):
        written(b"x" * 2000, make(max_bytes=1000))


def test_pickling_can_be_forbidden_both_ways() -> None:
    strict = make(allow_pickle=False)
    for by in ("pickle", "compressed/pickle"):
        with pytest.raises(SerializationError, match="KAPSTAN_ALLOW_PICKLE is false"):
            written({1}, strict, by=by)
        with pytest.raises(UnreadableValue, match="KAPSTAN_ALLOW_PICKLE is false"):
            read(written({1}, by=by)[0], strict)


class Failing(Serializer):
    type = "failing-tests"

    def dumps(self, obj: Any) -> bytes:
        if obj == "raise":
            raise ZeroDivisionError("no")
        return "text" if obj == "text" else b"x"  # type: ignore[return-value]

    def loads(self, blob: bytes) -> Any:
        raise ZeroDivisionError("never")


def test_what_a_serializer_raises_is_told_in_our_words() -> None:
    for value in ("raise", "text"):
        with pytest.raises(SerializationError, match=r"it \(builtins.str\) cannot be serialised by 'failing-tests'"):
            written(value, by="failing-tests")
        with pytest.raises(SerializationError, match=r"w \(builtins.str\) cannot be serialised by 'failing-tests'"):
            make().encode(value, *PLACE, what="w", serializer=Failing())
    body, whole = written(1, by="failing-tests")[0], make().encode(1, *PLACE, serializer=Failing())
    for read_it in (lambda: read(body), lambda: make().decode(whole, *PLACE)):
        with pytest.raises(UnreadableValue, match="written by 'failing-tests' cannot be loaded here: ZeroDivision"):
            read_it()
