"""Equal content, equal digest, in every process; different content, different digest."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
import subprocess
import sys
import threading
from collections import namedtuple
from decimal import Decimal
from pathlib import PurePosixPath
from uuid import UUID

import pydantic
import pytest

from kapstan.engine import canonical


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Model(pydantic.BaseModel):
    name: str
    tags: set[str]


class Plain:
    def __init__(self, value: object) -> None:
        self.value = value


Pair = namedtuple("Pair", "left right")


def digest(value: object) -> str:
    return canonical.digest({"value": value})


DIFFERENT = [
    None,
    True,
    False,
    0,
    1,
    -1,
    1.0,
    0.0,
    -0.0,
    math.inf,
    math.nan,
    "1",
    b"1",
    bytearray(b"1"),
    "",
    [],
    (),
    {},
    set(),
    [1],
    (1,),
    {1},
    [[1], 2],
    [[1, 2]],
    ["a", "b"],
    ["ab"],
    {"a": 1, "b": 2},
    {"a": 2, "b": 1},
    {1: "a"},
    {"1": "a"},
    Colour.RED,
    Colour.BLUE,
    Point(1, 2.0),
    Point(2, 1.0),
    Model(name="a", tags={"x"}),
    Model(name="a", tags={"y"}),
    Plain(1),
    Plain(2),
    Pair(1, 2),
    datetime.datetime(2026, 1, 1),
    datetime.date(2026, 1, 1),
    datetime.timedelta(1),
    Decimal(1),
    Decimal("1.0"),
    UUID(int=1),
    1 + 2j,
    PurePosixPath("/a"),
    Point,
    digest,
    lambda x: x,
    lambda x: x + 1,
    2**100,
]


def test_different_values_have_different_digests() -> None:
    digests = [digest(value) for value in DIFFERENT]
    assert len(set(digests)) == len(DIFFERENT)


def test_order_of_dicts_and_sets_plays_no_part() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"x", "y", "z"}) == digest({"z", "y", "x"})
    assert digest(Model(name="a", tags={"x", "y"})) == digest(Model(name="a", tags={"y", "x"}))


def test_closures_count_by_what_they_hold() -> None:
    def adder(n: int) -> object:
        return lambda x: x + n

    assert digest(adder(1)) == digest(adder(1))
    assert digest(adder(1)) != digest(adder(2))


def test_what_cannot_be_pickled_counts_by_its_class() -> None:
    assert digest(threading.Lock()) == digest(threading.Lock())
    assert digest(Plain(threading.Lock())) == digest(Plain(threading.Lock()))
    assert digest(threading.Lock()) != digest(iter([1]))


@pytest.mark.parametrize("seed", ["1", "2"])
def test_every_process_agrees(seed: str) -> None:
    program = (
        "from kapstan.engine import canonical;"
        "print(canonical.digest({'value': [{'b', 'a', 'c'}, {'y': 1.5, 'x': None}, 'é', b'\\x00', (1, 2)]}))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": "operator", "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == digest([{"b", "a", "c"}, {"y": 1.5, "x": None}, "é", b"\x00", (1, 2)])


def test_numpy_like_objects_count_by_their_state() -> None:
    import array

    assert digest(array.array("i", [1, 2])) == digest(array.array("i", [1, 2]))
    assert digest(array.array("i", [1, 2])) != digest(array.array("i", [1, 3]))
