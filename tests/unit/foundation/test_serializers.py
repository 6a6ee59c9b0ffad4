"""``kapstan.serializers``: what each carries, names, the refusals, and that pickling can be forbidden everywhere."""

from __future__ import annotations

import datetime
import io
from typing import Any, Literal

import pytest

from kapstan import serializers, settings
from kapstan.errors import ConfigurationError, SerializationError, UnreadableValue, ValueTooLarge
from kapstan.serializers import (
    CompressedJSONSerializer,
    CompressedPickleSerializer,
    CompressedSerializer,
    JSONSerializer,
    PickleSerializer,
    Serializer,
    compressed,
)
from kapstan.settings import Settings

NAMES = ["json", "pickle", "compressed/json", "compressed/pickle", "compressed+bz2/json", "compressed+lzma/pickle"]
VALUE = {"text": ["ü\n" * 40_000, 1, 2.5, None, True], "": {}}


class Roman(Serializer):
    type: Literal["roman-tests"] = "roman-tests"

    def dumps(self, obj: Any) -> bytes:
        return b"I" * obj

    def loads(self, blob: bytes) -> Any:
        return len(blob)


@pytest.mark.parametrize("name", NAMES)
def test_a_value_comes_back_as_bytes_and_by_a_file(name: str) -> None:
    serializer = serializers.named(name)
    assert serializer.name == name
    assert serializer.loads(serializer.dumps(VALUE)) == VALUE
    file = io.BytesIO()
    serializer.dump(VALUE, file)
    assert serializer.load(io.BytesIO(file.getvalue())) == VALUE
    assert serializer.load(io.BytesIO(serializer.dumps(VALUE))) == VALUE


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("compressed")])
def test_compressed_bytes_are_fewer_and_a_cut_is_told(name: str) -> None:
    serializer = serializers.named(name)
    blob = serializer.dumps(VALUE)
    assert len(blob) < 2_000
    for end in range(0, len(blob), 7):
        with pytest.raises(UnreadableValue, match="cannot be decompressed"):
            serializer.loads(blob[:end])


def test_what_compresses_well_is_read_in_pieces() -> None:
    """A few bytes that stand for very many do not become these at once: whoever reads takes what it needs."""
    blob = CompressedSerializer("pickle", "zlib").dumps(b"\0" * 50_000_000)
    decompressing = compressed._Decompressing(CompressedSerializer("pickle")._made(1), io.BytesIO(blob))
    taken, longest = 0, 0
    while piece := decompressing.more():
        taken, longest = taken + len(piece), max(longest, len(piece))
    assert taken > 50_000_000 > 100 * len(blob)
    assert longest < 1_000_000


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("compressed")])
def test_the_limit_holds_for_what_is_compressed(name: str) -> None:
    serializer = serializers.named(name)
    blob = serializer.dumps("x" * 1_000_000)
    settings.use(Settings(home=settings.current().home, max_value_bytes=900_000))
    with pytest.raises(ValueTooLarge, match="before it is compressed it has more bytes than KAPSTAN_MAX_VALUE_BYTES"):
        serializer.dumps("x" * 1_000_000)
    with pytest.raises(UnreadableValue, match="decompressed it has more bytes than KAPSTAN_MAX_VALUE_BYTES"):
        serializer.loads(blob)
    assert serializer.loads(serializer.dumps("x" * 800_000)) == "x" * 800_000


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({"a": [1, (2,)]}, r"value\['a'\]\[1\] is a builtins.tuple"),
        ([datetime.date(2026, 1, 2)], r"value\[0\] is a datetime.date"),
        ({1: 2}, "value has the key 1"),
        (float("nan"), "value is nan"),
        ("\ud800", "half a character"),
        (2**2000, "1024 bits"),
    ],
)
def test_json_refuses_what_would_come_back_as_something_else(value: Any, what: str) -> None:
    with pytest.raises(SerializationError, match=what):
        JSONSerializer().dumps(value)
    with pytest.raises(SerializationError, match=what):
        CompressedJSONSerializer().dump(value, io.BytesIO())


def test_one_list_in_two_places_is_no_json() -> None:
    shared: list[int] = []
    with pytest.raises(SerializationError, match="in two places"):
        JSONSerializer().dumps([shared, shared])


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"no serializer 'jsn'; known here: .*compressed/json, .*, json, "):
        serializers.named("jsn")
    for name in ("compressed", "compressed/", "compressed/jsn", "compressed+/json", "", "json/x"):
        with pytest.raises(ConfigurationError):
            serializers.named(name)
    with pytest.raises(ConfigurationError, match="give zlib, bz2, lzma"):
        CompressedSerializer("json", "os")


def test_a_class_of_ones_own_is_known_by_its_type() -> None:
    assert serializers.named("roman-tests") == Roman()
    assert serializers.checked("s", "compressed/roman-tests").loads(CompressedSerializer(Roman()).dumps(4)) == 4
    assert serializers.checked("s", Roman) == Roman()
    assert "roman-tests" in serializers.known()


def test_a_type_is_one_class() -> None:
    with pytest.raises(ConfigurationError, match="both the serializer 'json'"):
        type("Mine", (Serializer,), {"type": "json"})
    assert isinstance(serializers.named("json"), JSONSerializer)
    for bad in ("a/b", "x" * 101, "-", 7):
        with pytest.raises(ConfigurationError, match="type="):
            type("Bad", (Serializer,), {"type": bad})


def test_a_subclass_that_readers_would_not_find_is_refused() -> None:
    class Lenient(JSONSerializer):
        def dumps(self, obj: Any) -> bytes:
            return b"1"

    for given in (Lenient(), Lenient):
        with pytest.raises(ConfigurationError, match="needs a `type` of its own"):
            serializers.checked("result_serializer", given)
    with pytest.raises(ConfigurationError, match=r"result_serializer=3: give the name"):
        serializers.checked("result_serializer", 3)


@pytest.mark.parametrize(
    "serializer", [PickleSerializer(), CompressedPickleSerializer(), CompressedPickleSerializer("bz2")]
)
def test_pickling_can_be_forbidden(serializer: Serializer) -> None:
    blob = serializer.dumps({1})
    settings.use(Settings(home=settings.current().home, allow_pickle=False))
    with pytest.raises(SerializationError, match="KAPSTAN_ALLOW_PICKLE is false"):
        serializer.dumps({1})
    with pytest.raises(SerializationError, match="KAPSTAN_ALLOW_PICKLE is false"):
        serializer.dump({1}, io.BytesIO())
    for read in (serializer.loads, lambda blob: serializer.load(io.BytesIO(blob))):
        with pytest.raises(UnreadableValue, match="KAPSTAN_ALLOW_PICKLE is false"):
            read(blob)
    with pytest.raises(ConfigurationError, match="KAPSTAN_ALLOW_PICKLE is false"):
        serializers.checked("result_serializer", serializer.name)
