"""Every decoder of what stands in Redis or in the store, given bytes that nobody signed: a named error each time, and
nothing is unpickled."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.queue.makers import CODEC

from kapstan import pickling
from kapstan.codec import JSON, PICKLE, RAW, REFERENCE, Codec
from kapstan.errors import KapstanError
from kapstan.ids import new_id
from kapstan.journal.history import decode_all
from kapstan.store.framing import scan
from kapstan.store.segment import Segment

CASES = 2_000
RUN = new_id()
SIGNED = CODEC.encode({"a": [1, "b"]}, "result", RUN)

noise = st.binary(max_size=200)
headed = st.builds(
    lambda form, kind, key, rest: form + kind + key + rest,
    st.sampled_from([b"\x01", b"\x00", b"\x02"]),
    st.sampled_from([JSON, PICKLE, RAW, REFERENCE, b"x"]),
    st.sampled_from([SIGNED[2:6], b"\0\0\0\0"]),
    st.binary(max_size=120),
)


def changed(good: bytes) -> st.SearchStrategy[bytes]:
    """``good`` with some bytes overwritten, cut off, or put in."""

    def change(at: int, cut: int, piece: bytes) -> bytes:
        at %= len(good) + 1
        return good[:at] + piece + good[at + cut :]

    return st.builds(change, st.integers(0, 10_000), st.integers(0, 40), st.binary(max_size=12)).filter(
        lambda made: made != good
    )


@pytest.fixture(autouse=True)
def nothing_is_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(body: bytes) -> Any:
        raise SystemExit(f"unpickled {body!r}, which nobody signed")

    monkeypatch.setattr(pickling, "loads", refuse)


def refused(decode: Callable[[], object]) -> None:
    """A named error, and no other."""
    with pytest.raises(KapstanError):
        decode()


READERS: list[Callable[[Codec, bytes], object]] = [
    lambda codec, envelope: codec.decode(envelope, "result", RUN),
    lambda codec, envelope: codec.decode_json(envelope, "result", RUN),
    lambda codec, envelope: codec.reference(envelope, "result", RUN),
    lambda codec, envelope: codec.json_reader("result", RUN)(envelope),
    lambda codec, envelope: list(decode_all([envelope], codec, RUN)),
]


@pytest.mark.parametrize("reader", READERS, ids=["decode", "decode_json", "reference", "json_reader", "journal"])
@settings(max_examples=CASES, deadline=None)
@given(noise | headed | changed(SIGNED))
def test_no_envelope_that_nobody_signed_is_read(reader: Callable[[Codec, bytes], object], envelope: bytes) -> None:
    refused(lambda: reader(CODEC, envelope))


@settings(max_examples=CASES, deadline=None)
@given(noise | changed(Segment(3, "token", "data", (b"one", b"two"), 1).encode()))
def test_a_segment_that_was_changed_is_read_whole_or_refused(body: bytes) -> None:
    with contextlib.suppress(KapstanError):
        Segment.decode("flows/x/j/3", body)
    scan(body)
