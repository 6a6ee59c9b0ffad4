"""Values of every kind that counts in a key, and their digests: imported by a test, and run as a script by it."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import enum
import fractions
import functools
import json
import multiprocessing
import operator
import pathlib
import re
import sys
import types
import uuid
import zoneinfo
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import attrs
import pydantic
from dateutil import tz

from kapstan.engine import canonical


class Colour(enum.Enum):
    RED = 1
    CRIMSON = RED
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1


class Permission(enum.Flag):
    READ = 1
    WRITE = 2


class Mode(enum.IntFlag):
    A = 1


@dataclass
class Point:
    x: int
    y: float
    norm: float = field(default=0.0, init=False, compare=False)


@dataclass(frozen=True, slots=True)
class Frozen:
    x: int
    tags: frozenset[str] = frozenset()


class Named(Point):
    """Holds more than the fields of its dataclass."""

    def __init__(self, x: int, name: str) -> None:
        super().__init__(x, 0.0)
        self.name = name


@dataclass
class Tree:
    name: str
    parent: Tree | None = None
    children: list[Tree] = field(default_factory=list)


class Slotted:
    __slots__ = ("__secret", "left", "right")

    def __init__(self, left: Any) -> None:
        self.left = left
        self.__secret = 1


class Lazy:
    def __init__(self, a: int) -> None:
        self.a = a
        self._text: str | None = None

    @functools.cached_property
    def square(self) -> int:
        return self.a**2

    @property
    def text(self) -> str:
        if self._text is None:
            self._text = str(self.a)
        return self._text

    def __hash__(self) -> int:
        if not hasattr(self, "_hash"):
            self._hash = hash(self.a)
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lazy) and self.a == other.a


@attrs.define
class Attrs:
    x: int
    y: list[int] = attrs.Factory(list)


@attrs.frozen(cache_hash=True)
class FrozenAttrs:
    x: int


class Model(pydantic.BaseModel):
    name: str
    tags: set[str] = set()
    _private: int = pydantic.PrivateAttr(default=7)

    @functools.cached_property
    def loud(self) -> str:
        return self.name.upper()


class Loose(pydantic.BaseModel, extra="allow"):
    x: int


class Pair(NamedTuple):
    left: Any
    right: Any


class Text(str):
    """A str with a class of its own."""


class Group(set[str]):
    """A set with a class of its own."""


class Zone(datetime.tzinfo):
    """A zone without a repr of its own."""

    def utcoffset(self, dt: datetime.datetime | None) -> datetime.timedelta:
        return datetime.timedelta(hours=1)

    def dst(self, dt: datetime.datetime | None) -> None:
        return None

    def tzname(self, dt: datetime.datetime | None) -> str:
        return "X"


class Failure(Exception):
    def __init__(self, code: int, *, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Shop:
    def price(self) -> int:
        return 1


def function(x: int) -> int:
    return x


def _tree() -> Tree:
    top = Tree("top")
    top.children = [Tree(name, top) for name in "abc"]
    return top


def _filled(make: Any, value: Any) -> Any:
    made = make()
    made.append(value)
    return made


MOMENT = datetime.datetime(2026, 11, 28, 9, 30, 0, 5)


def table() -> dict[str, Any]:
    """Fresh values by name."""
    return {
        "none": None,
        "true": True,
        "one": 1,
        "one float": 1.0,
        "minus zero": -0.0,
        "nan": float("nan"),
        "infinity": float("inf"),
        "huge": 10**5000,
        "negative": -(2**70),
        "text": "é",
        "one text": "1",
        "surrogate": "\ud800",
        "long text": "x" * 1000,
        "bytes": b"1",
        "bytearray": bytearray(b"1"),
        "memoryview": memoryview(b"1"),
        "memoryview of shorts": memoryview(array.array("h", [1, 2])),
        "empty list": [],
        "empty tuple": (),
        "empty dict": {},
        "empty set": set[str](),
        "frozenset": frozenset({"a"}),
        "set": {"a"},
        "mixed set": {1, "a", 2.5, None, (1, 2), b"x"},
        "list": ["a", "b"],
        "other list": ["ab"],
        "nested": [[1, [2]], {"a": ({"b": None},)}],
        "wide": list(range(100)),
        "dict": {"b": 1, "a": 2},
        "int keys": {1: "a", 2: "b"},
        "OrderedDict": collections.OrderedDict([("b", 1), ("a", 2)]),
        "OrderedDict turned": collections.OrderedDict([("a", 2), ("b", 1)]),
        "defaultdict": collections.defaultdict(list, {"a": [1]}),
        "Counter": collections.Counter("abca"),
        "deque": collections.deque([1, 2], maxlen=5),
        "ChainMap": collections.ChainMap({"a": 1}, {"b": 2}),
        "namespace": types.SimpleNamespace(a=1),
        "mappingproxy": types.MappingProxyType({"a": 1}),
        "keys": {"a": 1, "b": 2}.keys(),
        "range": range(1, 10, 2),
        "slice": slice(1, None),
        "complex": 1 + 2j,
        "Decimal": decimal.Decimal("1.10"),
        "Fraction": fractions.Fraction(1, 3),
        "UUID": uuid.UUID(int=1),
        "date": datetime.date(2026, 11, 28),
        "timedelta": datetime.timedelta(days=1, microseconds=3),
        "naive": MOMENT,
        "fold": MOMENT.replace(fold=1),
        "UTC": MOMENT.replace(tzinfo=datetime.UTC),
        "offset": MOMENT.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
        "named offset": MOMENT.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=1), "X")),
        "ZoneInfo": MOMENT.replace(tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        "dateutil": MOMENT.replace(tzinfo=tz.tzoffset("X", 3600)),
        "zone of one's own": MOMENT.replace(tzinfo=Zone()),
        "time": datetime.time(9, 30, tzinfo=Zone()),
        "path": pathlib.Path("/a/b"),
        "pattern": re.compile("a+", re.IGNORECASE),
        "other pattern": re.compile("a+"),
        "array": array.array("i", [1, 2]),
        "enum": Colour.RED,
        "other enum": Colour.BLUE,
        "IntEnum": Level.LOW,
        "no flag": Permission(0),
        "flag": Permission.READ,
        "flags": Permission.READ | Permission.WRITE,
        "unnamed flags": Mode(12),
        "dataclass": Point(1, 2.0),
        "frozen dataclass": Frozen(1, frozenset({"b", "a", "c"})),
        "child of a dataclass": Named(1, "n"),
        "other child of a dataclass": Named(1, "m"),
        "slots": Slotted([1]),
        "lazy": Lazy(3),
        "attrs": Attrs(1, [2]),
        "frozen attrs": FrozenAttrs(1),
        "model": Model(name="a", tags={"x", "y", "z"}),
        "loose model": Loose.model_validate({"x": 1, "more": 2}),
        "named tuple": Pair(1, [2]),
        "str of a class": Text("1"),
        "set of a class": Group({"a", "b", "c"}),
        "exception": Failure(51, text="no"),
        "OSError": FileNotFoundError(2, "no such file", "/x"),
        "group": ExceptionGroup("many", [ValueError(1), KeyError("k")]),
        "class": Point,
        "builtin class": dict,
        "generic": list[int],
        "function": function,
        "builtin": len,
        "method": Shop().price,
        "partial": functools.partial(function, 1),
        "partial method": functools.partial(Shop().price),
        "itemgetter": operator.itemgetter("a"),
        "module": json,
        "iterator": iter([1, 2]),
        "circle": _filled(list, None) and _circle(),
        "tree": _tree(),
        "branch": _tree().children[1],
    }


def _circle() -> list[Any]:
    circle: list[Any] = [1]
    circle.append({"again": circle})
    return circle


def digests() -> dict[str, str]:
    return {name: canonical.digest({"value": value}) for name, value in table().items()}


def _send(connection: Any) -> None:
    connection.send(digests())


def spawned() -> dict[str, str]:
    """The digests in a child that imports this file anew."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_send, args=(theirs,))
    child.start()
    found = ours.recv()
    child.join()
    return found


if __name__ == "__main__":
    print(json.dumps(spawned() if "spawn" in sys.argv else digests()))
