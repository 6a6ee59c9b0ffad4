from __future__ import annotations

import base64
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kapstan import codec, serializers, signing_key
from kapstan.codec import Codec, Reference
from kapstan.errors import ConfigurationError, SerializationError, SignatureError, UnreadableValue, ValueTooLarge
from kapstan.serializers import Serializer, named
from kapstan.settings import Settings
from kapstan.signing_key import SigningKey

OLD, NEW, FOREIGN = (SigningKey.of(bytes([n]) * 32) for n in (1, 2, 3))


def make(*keys: SigningKey, namespace: str = "shop", **options: Any) -> Codec:
    return Codec(namespace, list(keys or (NEW,)), **options)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)


@given(values)
def test_every_value_comes_back_equal_and_of_its_type(value: Any) -> None:
    c = make()
    back = c.decode(c.encode(value, "result", "r1"), "result", "r1")
    assert back == value
    assert repr(back) == repr(value)


@pytest.mark.parametrize("value", [1, "é", [1, 2.5, None], {"a": {"b": [True]}}, -0.0, 10**300])
def test_what_json_carries_exactly_is_json(value: Any) -> None:
    assert make().open(make().encode(value, "result", "r"), "result", "r")[0] == codec.JSON


@pytest.mark.parametrize(
    "value", [(1, 2), {1: "a"}, float("nan"), float("inf"), b"x", {1}, "\ud800", 2**5000, stat.ST_MODE.__class__]
)
def test_what_json_would_change_is_not_json(value: Any) -> None:
    assert make().open(make().encode(value, "result", "r"), "result", "r")[0] == codec.PICKLE


def test_an_envelope_holds_in_its_place_only() -> None:
    envelope = make().encode([1], "arguments", "r1\0shop:charge")
    assert make().decode(envelope, "arguments", "r1\0shop:charge") == [1]
    for other, purpose, key in (
        (make(), "arguments", "r2\0shop:charge"),
        (make(), "arguments", "r1\0shop:refund"),
        (make(), "result", "r1\0shop:charge"),
        (make(namespace="other"), "arguments", "r1\0shop:charge"),
    ):
        with pytest.raises(SignatureError, match="does not hold"):
            other.decode(envelope, purpose, key)  # type: ignore[arg-type]


@given(st.data())
def test_any_changed_byte_is_noticed(data: st.DataObject) -> None:
    envelope = bytearray(make().encode({"amount": 5}, "arguments", "r"))
    place = data.draw(st.integers(0, len(envelope) - 1))
    envelope[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SignatureError):
        make().decode(bytes(envelope), "arguments", "r")


@given(st.binary(max_size=80))
def test_bytes_that_nobody_signed_are_refused(noise: bytes) -> None:
    with pytest.raises(SignatureError):
        make().decode(noise, "arguments", "r")


def test_rotation_accepts_the_previous_key_and_signs_with_the_current() -> None:
    before, after = make(OLD), make(NEW, OLD)
    assert after.decode(before.encode(1, "result", "r"), "result", "r") == 1
    with pytest.raises(SignatureError, match=f"signed by key {NEW.key_id.hex()}.*KAPSTAN_SIGNING_KEY"):
        before.decode(after.encode(1, "result", "r"), "result", "r")
    with pytest.raises(SignatureError, match="not of namespace 'shop'"):
        after.decode(make(FOREIGN).encode(1, "result", "r"), "result", "r")


def test_keys_of_several_rotations_are_accepted() -> None:
    """A journal is written over months; what was signed two rotations ago is read all the same."""
    texts = [base64.b64encode(key.secret).decode() for key in (NEW, OLD, FOREIGN)]
    codec = Codec.from_settings(Settings(signing_key=texts[0], signing_key_previous=f"{texts[1]}, {texts[2]}\n"))
    for key in (NEW, OLD, FOREIGN):
        assert codec.decode(make(key, namespace="default").encode(1, "journal", "r"), "journal", "r") == 1
    assert codec.encode(1, "journal", "r")[2:6] == NEW.key_id
    with pytest.raises(ConfigurationError, match="KAPSTAN_SIGNING_KEY_PREVIOUS: each key"):
        Codec.from_settings(Settings(signing_key=texts[0], signing_key_previous=f"{texts[1]},short"))


def test_pickling_can_be_forbidden_both_ways() -> None:
    strict = make(allow_pickle=False)
    with pytest.raises(SerializationError, match=r"argument 'card' \(builtins.set\).*KAPSTAN_ALLOW_PICKLE"):
        strict.encode({1}, "arguments", "r", what="argument 'card'")
    with pytest.raises(SerializationError, match="KAPSTAN_ALLOW_PICKLE is false"):
        strict.decode(make().encode({1}, "result", "r"), "result", "r")
    assert strict.decode(strict.encode([1], "result", "r"), "result", "r") == [1]


def test_what_is_shared_or_circular_stays_so_in_no_more_bytes() -> None:
    shared: list[Any] = ["x"]
    for _ in range(200):
        shared = [shared, shared]
    circle: dict[str, Any] = {"a": 1}
    circle["self"] = [circle, circle]
    c = make()
    back = c.decode(c.encode([shared, circle], "result", "r"), "result", "r")
    assert back[0][0] is back[0][1]
    assert back[1]["self"][0] is back[1]["self"][1] is back[1]
    assert len(c.encode(shared, "result", "r")) < 5000


def test_what_cannot_be_pickled_is_named() -> None:
    with pytest.raises(SerializationError, match=r"the result \(_thread.lock\) cannot be serialised"):
        make().encode(threading.Lock(), "result", "r", what="the result")


def test_too_large_a_value_is_refused_with_the_limit() -> None:
    with pytest.raises(ValueTooLarge, match="KAPSTAN_MAX_VALUE_BYTES"):
        make(max_bytes=10).encode("x" * 11, "result", "r")


def test_the_control_plane_reads_json_only() -> None:
    assert make().decode_json(make().encode({"a": 1}, "summary", "r"), "summary", "r") == {"a": 1}
    with pytest.raises(SerializationError, match="is not JSON but pickled"):
        make().decode_json(make().encode({1}, "summary", "r"), "summary", "r")


def test_a_reference_comes_back_as_one() -> None:
    reference = Reference("blob/r1/x", codec.digest(b"big"), 3)
    assert make().decode(make().refer(reference, "result", "r"), "result", "r") == reference


@pytest.mark.parametrize("name", ["json", "pickle", "compressed/json", "compressed/pickle", "compressed+bz2/json"])
def test_the_serializers_name_is_under_the_signature(name: str) -> None:
    c, value = make(), {"a": ["x" * 1000]}
    envelope = c.encode(value, "result", "r", serializer=named(name))
    assert c.decode(envelope, "result", "r") == value
    for other in (b"jsom", b"compressed/jsom"):
        changed = envelope.replace(b"json", other[-4:]).replace(b"pickle", b"pickld")
        if changed != envelope:
            with pytest.raises(SignatureError):
                c.decode(changed, "result", "r")
    for kind in (codec.JSON, codec.PICKLE, codec.RAW, codec.REFERENCE, codec.NAMED, codec.PIECE):
        if envelope[1:2] != kind:
            with pytest.raises(SignatureError):
                c.decode(envelope[:1] + kind + envelope[2:], "result", "r")


def test_compressed_json_is_json_for_who_may_not_unpickle() -> None:
    c = make(allow_pickle=False)
    envelope = c.encode([1], "result", "r", serializer=named("compressed/json"))
    assert c.decode_json(envelope, "result", "r") == [1]
    assert codec.describe(envelope) == "written by 'compressed/json', 11 bytes"
    pickled = make().encode([1], "result", "r", serializer=named("compressed/pickle"))
    for read in (c.decode, c.decode_json):
        with pytest.raises(SerializationError, match="KAPSTAN_ALLOW_PICKLE is false"):
            read(pickled, "result", "r")
    with pytest.raises(SerializationError, match="is not JSON but written by 'compressed/pickle'"):
        make().decode_json(pickled, "result", "r")


def test_a_value_of_a_serializer_that_is_not_here_says_how_to_have_it() -> None:
    gone = type("Gone", (Serializer,), {"type": "gone", "dumps": lambda self, obj: b"x"})
    envelope = make().encode(1, "result", "r", serializer=gone())
    del serializers.base._types["gone"]  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(UnreadableValue, match=r"no serializer 'gone'; known here: .*once the module"):
        make().decode(envelope, "result", "r")


def test_an_envelope_costs_22_bytes() -> None:
    assert len(make().encode(7, "result", "r")) == 23


def test_the_local_key_is_made_once_for_all_who_race(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: signing_key.local_key(tmp_path / "home"), range(32)))
    assert len(keys) == 1
    assert stat.S_IMODE((tmp_path / "home" / "signing.key").stat().st_mode) == 0o600
    assert os.listdir(tmp_path / "home") == ["signing.key"]


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    signing_key.local_key(tmp_path)
    (tmp_path / "signing.key").chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        signing_key.local_key(tmp_path)


def test_a_key_that_a_volumes_group_was_given_is_taken_back(tmp_path: Path) -> None:
    """Kubernetes makes every file of a volume with fsGroup readable and writable for that group, at each mount."""
    before = signing_key.local_key(tmp_path)
    (tmp_path / "signing.key").chmod(0o660)
    assert signing_key.local_key(tmp_path) == before
    assert stat.S_IMODE((tmp_path / "signing.key").stat().st_mode) == 0o600


def test_a_home_for_the_key_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"KAPSTAN_HOME=.* cannot be used"):
        signing_key.local_key(tmp_path / "file")


def test_a_short_key_is_refused_with_the_fix() -> None:
    with pytest.raises(ConfigurationError, match="KAPSTAN_SIGNING_KEY: each key must be base64 of at least 32 bytes"):
        Codec.from_settings(Settings(signing_key="c2hvcnQ="))
