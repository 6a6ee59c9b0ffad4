"""One digest for one content: how the inputs of a task call become part of its memo key.

Equal inputs give equal digests in every process and on every machine, whatever order sets and dicts were filled in and
whatever objects share memory. Version ``1`` of the rules:

- ``1``, ``1.0``, ``True`` and ``"1"`` differ; ``0.0`` and ``-0.0`` differ; every NaN is one value; lists and tuples
  differ.
- Sets and dicts are unordered. Strings are compared by code points, without normalisation.
- Dataclasses, attrs classes, pydantic models and named tuples: class name and fields. Enums: class and member name.
- A future counts as the call that it stands for, not as its value.
- Functions and classes: their names; lambdas and local functions also their code, defaults and closure.
- Other objects: what pickle would take of them (class, arguments, state), visited in this same way.
- What cannot be pickled (connections, locks, generators) counts by its class only.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import hashlib
import pathlib
import types
import uuid
from collections.abc import Callable
from typing import Any, cast

VERSION = b"1"
_BY_TEXT = (datetime.datetime, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID, complex)


def digest(parameters: dict[str, Any]) -> str:
    """22 characters that are equal only for equal arguments."""
    return hashlib.sha256(VERSION + encode(parameters)).hexdigest()[:22]


def encode(value: Any) -> bytes:
    """The canonical bytes of ``value``."""
    return _encode(value, ())


def _encode(value: Any, above: tuple[int, ...]) -> bytes:
    kind = cast("type[Any]", type(value))
    scalar = _SCALARS.get(kind)
    if scalar is not None:
        return scalar(value)
    if id(value) in above:
        return b"^%d" % (len(above) - above.index(id(value)))  # a cycle: how many levels up it closes
    above = (*above, id(value))
    if kind is list or kind is tuple:
        return _framed(b"l" if kind is list else b"t", [_encode(item, above) for item in value])
    if kind is dict:
        return _framed(b"d", sorted(_encode(key, above) + _encode(item, above) for key, item in value.items()))
    if kind is set or kind is frozenset:
        return _framed(b"S", sorted(_encode(item, above) for item in value))
    reference = getattr(kind, "memo_reference", None)
    if reference is not None:
        return _framed(b"@", [value.memo_reference.encode()])
    return _encode_object(value, kind, above)


def _encode_object(value: Any, kind: type[Any], above: tuple[int, ...]) -> bytes:
    if isinstance(value, enum.Enum):
        return _framed(b"e", [_name(kind), value.name.encode()])
    if isinstance(value, _BY_TEXT):
        return _framed(b"v", [_name(kind), repr(value).encode()])
    if isinstance(value, pathlib.PurePath):
        return _framed(b"v", [b"path", str(value).encode(errors="surrogateescape")])
    if isinstance(value, type):
        return _framed(b"c", [_name(value)])
    if isinstance(value, types.FunctionType):
        return _encode_function(value, above)
    fields = _fields(value, kind)
    if fields is not None:
        return _framed(b"o", [_name(kind), _encode(fields, above)])
    return _encode_reduced(value, kind, above)


def _fields(value: Any, kind: type[Any]) -> dict[str, Any] | None:
    """Fields by name of a record-like object, None if it is not one."""
    if dataclasses.is_dataclass(kind):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(kind)}
    if hasattr(kind, "__attrs_attrs__"):
        return {field.name: getattr(value, field.name, None) for field in cast("Any", kind).__attrs_attrs__}
    if hasattr(kind, "model_fields") and hasattr(kind, "model_validate"):
        return {**vars(value), **(getattr(value, "__pydantic_extra__", None) or {})}
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return dict(zip(cast("Any", kind)._fields, cast("tuple[Any, ...]", value), strict=False))
    return None


def _encode_function(function: types.FunctionType, above: tuple[int, ...]) -> bytes:
    name = f"{function.__module__}:{function.__qualname__}".encode()
    if "<" not in function.__qualname__:
        return _framed(b"F", [name])
    cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    constants = [c.co_code if isinstance(c, types.CodeType) else c for c in function.__code__.co_consts]
    code = [function.__code__.co_code, function.__code__.co_names, constants]
    return _framed(b"F", [name, _encode([code, function.__defaults__, function.__kwdefaults__, cells], above)])


def _filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _encode_reduced(value: Any, kind: type[Any], above: tuple[int, ...]) -> bytes:
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:  # noqa: BLE001  (whatever an object's own protocol raises: it cannot be pickled)
        return _framed(b"?", [_name(kind)])
    if isinstance(reduced, str):
        return _framed(b"g", [_name(kind), reduced.encode()])
    make, args, state, items, pairs = (*reduced, None, None, None)[:5]
    return _framed(
        b"r",
        [
            _name(kind),
            _encode_callable(make),
            _encode(args, above),
            _encode(state, above),
            _encode(list(items) if items is not None else None, above),
            _encode(dict(pairs) if pairs is not None else None, above),
        ],
    )


def _encode_callable(make: Any) -> bytes:
    return f"{getattr(make, '__module__', '')}:{getattr(make, '__qualname__', '')}".encode()


def _framed(tag: bytes, parts: list[bytes]) -> bytes:
    return b"%s%d(%s)" % (tag, len(parts), b"".join([b"%d:%s" % (len(part), part) for part in parts]))


def _name(kind: type[Any]) -> bytes:
    return f"{kind.__module__}:{kind.__qualname__}".encode()


def _text(value: str) -> bytes:
    body = value.encode(errors="surrogatepass")
    return b"s%d:%s" % (len(body), body)


_SCALARS: dict[type[Any], Callable[[Any], bytes]] = {
    type(None): lambda _: b"n;",
    bool: lambda value: b"T;" if value else b"N;",
    int: lambda value: b"i%x;" % value,
    float: lambda value: b"f%s;" % float.hex(value).encode(),
    str: _text,
    bytes: lambda value: b"y%d:%s" % (len(value), value),
    bytearray: lambda value: b"Y%d:%s" % (len(value), bytes(value)),
}
