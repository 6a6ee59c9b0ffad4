"""Arrays and tables as results come back as they were, in pieces, without pickle; what would not is left to it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from kapstan import serializers
from kapstan.codec import Codec, describe
from kapstan.errors import SerializationError
from kapstan.piecewise import Pieces
from kapstan.signing_key import SigningKey

np: Any = pytest.importorskip("numpy")
pd: Any = pytest.importorskip("pandas")
pa: Any = pytest.importorskip("pyarrow")


def make(**options: Any) -> Codec:
    return Codec("shop", [SigningKey(b"k" * 4, b"s" * 32)], **options)


def in_pieces(blob: bytes) -> Pieces:
    file = io.BytesIO(blob)
    return Pieces(lambda: file.read(70_001))


ARRAYS: list[Callable[[], Any]] = [
    lambda: np.arange(12.0).reshape(3, 4),
    lambda: np.asfortranarray(np.ones((3, 4))),
    lambda: np.array(5),
    lambda: np.zeros((0, 3)),
    lambda: np.array(["a", "bc"]),
    lambda: np.array([b"x"]),
    lambda: np.array([1, 2], dtype=">i4"),
    lambda: np.arange(10)[::2],
    lambda: np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    lambda: np.array(["2020-01-01"], dtype="M8[D]"),
    lambda: np.random.default_rng(1).random((300, 3000)),
]


@pytest.mark.parametrize("array", [make() for make in ARRAYS], ids=lambda array: f"{array.dtype}{array.shape}")
def test_an_array_comes_back(array: Any) -> None:
    serializer = serializers.of_library(array)
    assert serializer is not None
    assert serializer.name == "npy"
    back = serializer.load(in_pieces(serializer.dumps(array)))
    assert (type(back), back.dtype, back.shape) == (type(array), array.dtype, array.shape)
    assert (back == array).all()
    assert back.flags.f_contiguous == array.flags.f_contiguous or not array.flags.contiguous
    assert back.flags.writeable


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        np.ma.array([1]),
        np.array([1]).view(np.recarray),
        np.float64(1),
        np.array([1], dtype=np.dtype("i4", metadata={"a": 1})),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_npy_would_change_is_left_to_pickle(value: Any) -> None:
    assert serializers.of_library(value) is None
    with pytest.raises(SerializationError, match="npy takes"):
        serializers.named("npy").dumps(value)
    envelope = make().encode(value, "result", "r")
    assert describe(envelope).startswith("pickled")


ROWS = 120_000
FRAME = pd.DataFrame(
    {
        "number": range(ROWS),
        "share": np.random.default_rng(1).random(ROWS),
        "word": ["x"] * ROWS,
        "time": pd.date_range("2020", periods=ROWS, freq="s"),
        "kind": pd.Categorical(["u", "v"] * (ROWS // 2), categories=["u", "v", "w"], ordered=True),
    }
)
FRAMES: dict[str, Any] = {
    "plain": FRAME,
    "every other row": FRAME[::2],
    "index of times": FRAME.set_index("time"),
    "named index": FRAME.head(10).rename_axis("i"),
    "missing integers": pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}),
    "time zone": pd.DataFrame({"a": pd.to_datetime(["2020-01-01"]).tz_localize("Europe/Berlin")}),
    "missing numbers": pd.DataFrame({"a": [1.0, np.nan]}),
    "empty": pd.DataFrame({"a": np.zeros(0)}),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_comes_back(name: str) -> None:
    frame = FRAMES[name]
    serializer = serializers.of_library(frame)
    assert serializer is not None
    assert serializer.name == "arrow-pandas"
    back = serializer.load(in_pieces(serializer.dumps(frame)))
    pd.testing.assert_frame_equal(back, frame, check_exact=True)
    assert type(back.index) is type(frame.index)
    back.iloc[:1, 0] = frame.iloc[:1, 0]  # and can be changed


def marked(frame: Any) -> Any:
    frame.attrs["source"] = object()
    return frame


class Own(pd.DataFrame):
    """Not what an Arrow stream gives back."""


LEFT: dict[str, Any] = {
    "columns of numbers": pd.DataFrame({1: [2]}),
    "mixed": pd.DataFrame({"a": [1, "x"]}),
    "objects": pd.DataFrame({"a": [object()]}),
    "one name twice": pd.DataFrame([[1, 2]], columns=["a", "a"]),
    "complex": pd.DataFrame({"a": [1j]}),
    "periods": pd.DataFrame({"a": pd.period_range("2020", periods=2, freq="D")}),
    "two indexes": FRAME.head(10).set_index(["number", "word"]),
    "no rows of categories": FRAME[:0],
    "attributes": marked(FRAME.head(3).copy()),
    "a class of its own": Own({"a": [1]}),
    "a series": pd.Series([1]),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_arrow_would_change_is_left_to_pickle(name: str) -> None:
    assert serializers.of_library(LEFT[name]) is None
    with pytest.raises(SerializationError, match="arrow-pandas takes"):
        serializers.named("arrow-pandas").dumps(LEFT[name])


def test_a_table_comes_back() -> None:
    table = pa.table({"a": [1, None], "b": [["x"], []]}, metadata={"k": "v"})
    serializer = serializers.of_library(table)
    assert serializer is not None
    assert serializer.load(in_pieces(serializer.dumps(table))).equals(table, check_metadata=True)
    with pytest.raises(SerializationError, match="arrow takes"):
        serializers.named("arrow").dumps([1])


@pytest.mark.parametrize("value", [np.arange(3), FRAME.head(3), pa.table({"a": [1]})], ids=["npy", "pandas", "arrow"])
def test_they_need_no_pickle(value: Any) -> None:
    strict = make(allow_pickle=False)
    envelope = strict.encode(value, "result", "r")
    assert describe(envelope).startswith("written by '")
    back = strict.decode(envelope, "result", "r")
    assert back.equals(value) if hasattr(value, "equals") else (back == value).all()
    compressed = strict.encode(
        value, "result", "r", serializer=serializers.named(f"compressed/{serializers.chosen(value).name}")
    )
    assert type(strict.decode(compressed, "result", "r")) is type(value)
