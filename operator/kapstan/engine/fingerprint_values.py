"""Values that code refers to: which of them count by their content."""

from __future__ import annotations

import dataclasses
import enum
import types
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from kapstan.engine import canonical

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented), range, slice})
_CONTAINERS = frozenset({list, tuple, dict, set, frozenset, bytearray})
_NAMED = frozenset(
    {
        types.BuiltinFunctionType,
        types.MethodDescriptorType,
        types.WrapperDescriptorType,
        types.ClassMethodDescriptorType,
    }
)
_MODULES = frozenset(
    "array collections datetime decimal fractions ipaddress numpy operator pandas pathlib polars pyarrow re string "
    "types typing uuid zoneinfo".split()
)
"""Their classes hold data, as far as a key can be made of them."""
_MOST_ITEMS, _MOST_BYTES = 1000, 65536


class Items(NamedTuple):
    """A container that may hold code: its items (of a dict key and value) and whether their order counts."""

    label: bytes
    parts: Sequence[tuple[Any, ...]]
    ordered: bool


def is_plain(value: Any) -> bool:
    """Whether it is a single value that cannot change in place."""
    kind = cast("type[Any]", type(value))  # and not isinstance: a proxy says that it is something else
    return kind in _PLAIN or issubclass(kind, enum.Enum)


def is_large(value: Any) -> bool:
    """Whether it would take long to see that it has changed in place: it is read once in a process."""
    kind = cast("type[Any]", type(value))
    if not _is_data(value, kind):
        return False
    if hasattr(kind, "nbytes"):
        return int(value.nbytes) > _MOST_BYTES
    return hasattr(kind, "__len__") and len(value) > _MOST_ITEMS


def constant(value: Any) -> tuple[bytes, str]:
    """What stands for the content of ``value``, and why it does not count by it; "" if it does."""
    kind = cast("type[Any]", type(value))
    if not _is_data(value, kind):
        return b"", "its content may change while it is used"
    token, unkeyed = canonical.content(value)
    return (b"", f"it holds {unkeyed[0]}, whose content no key can tell") if unkeyed else (token, "")


def _is_data(value: Any, kind: type[Any]) -> bool:
    """Whether it is made to hold values: no client, no logger, no object that works."""
    return (
        is_plain(value)
        or kind in _CONTAINERS
        or kind in _NAMED
        or str(kind.__module__).partition(".")[0] in _MODULES
        or dataclasses.is_dataclass(kind)
        or hasattr(kind, "__attrs_attrs__")
        or hasattr(kind, "__pydantic_fields__")
        or (hasattr(kind, "_fields") and issubclass(kind, tuple))
    )


def items_of(value: Any) -> Items | None:
    """The items of a container that may hold code; None for any other value."""
    parts = _parts(value)
    if parts is None or all(_is_only_data(part, 5) for item in parts for part in item):
        return None
    kind = cast("type[Any]", type(value))
    return Items(kind.__name__.encode(), parts, ordered=kind in (list, tuple))


def _parts(value: Any) -> Sequence[tuple[Any, ...]] | None:
    kind = cast("type[Any]", type(value))
    if kind not in _CONTAINERS or kind is bytearray or len(value) > _MOST_ITEMS:
        return None
    return list(value.items()) if kind is dict else [(item,) for item in value]


def _is_only_data(value: Any, depth: int) -> bool:
    parts = _parts(value) if depth else None
    if parts is None:
        return is_plain(value) or (not callable(value) and _is_data(value, cast("type[Any]", type(value))))
    return all(_is_only_data(part, depth - 1) for item in parts for part in item)
