"""What a serializer is, the two plain ones, and the table of all by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol, cast

from kapstan import settings
from kapstan.errors import ConfigurationError, SerializationError, UnreadableValue
from kapstan.exact_json import exact_json, misfit, text_of, value_of
from kapstan.identity import importable_name

_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}")
_PIECE = 1 << 20  # characters or bytes that are turned at a time


class Target(Protocol):
    """What bytes are written to."""

    def write(self, data: Any, /) -> object: ...


class Source(Protocol):
    """What bytes are read from, as from a binary file."""

    def read(self, size: int = -1, /) -> bytes: ...
    def readinto(self, buffer: Any, /) -> int: ...
    def readline(self) -> bytes: ...


class Serializer:
    """Values to bytes and back. A subclass gives ``type``, its name beside the bytes, ``dumps`` and ``loads``.

    Reading makes the class of that name without arguments, so what ``loads`` needs must stand in the bytes. The module
    of the class must be imported where its results are read.

    Attributes:
        type: 1 to 100 letters, digits, ``_ . : -``; unique in a program.
        unpickles: whether ``loads`` may run code that the bytes name: ``KAPSTAN_ALLOW_PICKLE=false`` forbids it then.
        is_json: whether the bytes are JSON (compressed or not) of values that JSON carries exactly.

    Raises:
        ConfigurationError: a ``type`` that another class has, or that cannot be; at the definition of the class.
    """

    type: str = ""
    unpickles: bool = False
    is_json: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__dict__.get("type"):
            _register(cls)

    @property
    def name(self) -> str:
        """What ``named`` finds it by."""
        return self.type

    def dumps(self, obj: Any) -> bytes:
        """Raises:
        SerializationError: it does not carry ``obj``.
        """
        raise NotImplementedError(f"{type(self).__qualname__}.dumps(obj) -> bytes is missing")

    def loads(self, blob: bytes) -> Any:
        raise NotImplementedError(f"{type(self).__qualname__}.loads(blob) -> value is missing")

    def dump(self, obj: Any, target: Target) -> None:
        """As ``dumps``, to a file; one that can write piece by piece holds large values once only."""
        body: Any = self.dumps(obj)
        if not isinstance(body, bytes):
            raise TypeError(f"dumps gave {type(body).__name__}, not bytes")
        target.write(body)

    def load(self, source: Source) -> Any:
        """As ``loads``, from a file."""
        return self.loads(source.read())

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Serializer) and type(other) is type(self) and other.__dict__ == self.__dict__

    def __hash__(self) -> int:
        return hash((type(self), self.name))


_types: dict[str, type[Serializer]] = {}
_families: dict[str, Callable[[str], Serializer]] = {}
"""By what stands before the first slash of a name: what makes a serializer of the whole name."""


def _register(cls: type[Serializer]) -> None:
    if not isinstance(cast("Any", cls.type), str) or not _TYPE.fullmatch(cls.type):
        raise ConfigurationError(
            f"{cls.__qualname__}.type={cls.type!r}: give 1 to 100 letters, digits, '_', '.', ':' or '-'"
        )
    before = _types.get(cls.type)
    if before is not None and _origin(before) != _origin(cls):
        raise ConfigurationError(
            f"{_origin(cls)} and {_origin(before)} are both the serializer {cls.type!r}: give one another type"
        )
    _types[cls.type] = cls


def _origin(cls: type[Serializer]) -> str:
    return f"{importable_name(cls.__module__)}:{cls.__qualname__}"


def add_family(first: str, make: Callable[[str], Serializer]) -> None:
    """Have ``named`` make the serializers of all names that begin with ``first`` and a slash or ``+``."""
    _families[first] = make


def known() -> list[str]:
    """The names that this process knows."""
    return sorted([*_types, *(f"{family}/{name}" for family in _families for name in ("json", "pickle"))])


def named(name: str) -> Serializer:
    """The serializer of that name.

    Raises:
        ConfigurationError: no class here has that name; the message lists those that there are.
    """
    family = re.split(r"[/+]", name, maxsplit=1)[0]
    if family != name and family in _families:
        return _families[family](name)
    cls = _types.get(name)
    if cls is None:
        raise ConfigurationError(
            f"there is no serializer {name!r}; known here: {', '.join(known())}. One of your own is known once the "
            "module with its class is imported"
        )
    return cls()


def checked(option: str, value: Any) -> Serializer:
    """The serializer that ``value`` names or is.

    Raises:
        ConfigurationError: neither; one that other processes would not find by its name; one that pickles, where that
            is not allowed.
    """
    if isinstance(value, str):
        try:
            value = named(value)
        except ConfigurationError as error:
            raise ConfigurationError(f"{option}={value!r}: {error}") from None
    if isinstance(value, type) and issubclass(value, Serializer):
        value = value()
    if not isinstance(value, Serializer):
        raise ConfigurationError(
            f"{option}={value!r}: give the name of a serializer ({', '.join(known())}) or a Serializer"
        )
    if not _is_found(value):
        cls = type(value)
        raise ConfigurationError(f"{option}: {_origin(cls)} needs a `type` of its own, by which readers find it")
    if value.unpickles and not settings.peek("allow_pickle"):
        raise ConfigurationError(f"{option}={value.name!r}: it pickles, and KAPSTAN_ALLOW_PICKLE is false")
    return value


def _is_found(serializer: Serializer) -> bool:
    """Whether what a reader finds under its name reads what it writes."""
    try:
        found = type(named(serializer.name))
    except ConfigurationError:
        return False
    methods = ("dumps", "loads", "dump", "load")
    return all(getattr(found, method) is getattr(type(serializer), method) for method in methods)


class JSONSerializer(Serializer):
    """JSON, of values that it gives back exactly as they were; it refuses others and says what does not fit."""

    type = "json"
    is_json = True

    def dumps(self, obj: Any) -> bytes:
        return self._text(obj).encode()

    def loads(self, blob: bytes) -> Any:
        return value_of(str(blob, "utf-8"))

    def dump(self, obj: Any, target: Target) -> None:
        text = self._text(obj)
        for start in range(0, len(text), _PIECE):
            target.write(text[start : start + _PIECE].encode())

    def load(self, source: Source) -> Any:
        """Holds the text once, beside the value that is made of it."""
        import codecs
        import io

        decoder, text = codecs.getincrementaldecoder("utf-8")(), io.StringIO()
        while piece := source.read(_PIECE):
            text.write(decoder.decode(piece))
        text.write(decoder.decode(b"", True))
        return value_of(text.getvalue())

    def _text(self, obj: Any) -> str:
        if not exact_json(obj):
            raise SerializationError(f"JSON does not give it back as it is: {misfit(obj)}")
        return text_of(obj)


class ExactJSON(JSONSerializer):
    """JSON of a value that was looked at already."""

    def _text(self, obj: Any) -> str:
        return text_of(obj)


class PickleSerializer(Serializer):
    """cloudpickle; refused, both ways, where ``KAPSTAN_ALLOW_PICKLE`` is false."""

    type = "pickle"
    unpickles = True

    def dumps(self, obj: Any) -> bytes:
        from kapstan import pickling

        if not settings.current().allow_pickle:
            raise SerializationError("KAPSTAN_ALLOW_PICKLE is false")
        return pickling.dumps(obj)

    def loads(self, blob: bytes) -> Any:
        from kapstan import pickling

        _may_unpickle()
        return pickling.loads(blob)

    def dump(self, obj: Any, target: Target) -> None:
        from kapstan import pickling

        if not settings.current().allow_pickle:
            raise SerializationError("KAPSTAN_ALLOW_PICKLE is false")
        pickling.dump(obj, target)

    def load(self, source: Source) -> Any:
        from kapstan import pickling

        _may_unpickle()
        return pickling.load(source)


def _may_unpickle() -> None:
    if not settings.current().allow_pickle:
        raise UnreadableValue("the value is pickled, and KAPSTAN_ALLOW_PICKLE is false")
