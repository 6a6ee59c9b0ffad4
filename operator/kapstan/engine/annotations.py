"""Whether an argument is plainly of the annotated type, so that pydantic need not be loaded to check it.

Called by ``flows`` before it converts: loading pydantic takes longer than many a flow. ``fits`` answers yes only where
pydantic (lax, as ``flows`` uses it) would give back an equal value of the same types, and no wherever it is not sure.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from typing import Any, cast

_PLAIN = frozenset({str, int, float, bool, bytes, list, dict, tuple, set, frozenset, type(None)})


def fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is already what ``hint`` names: Any, a plain type, a container or union of plain types, or a
    Literal."""
    if hint is Any or type(value) is hint:
        return True
    if hint is None:
        return value is None
    origin: Any = typing.get_origin(hint)
    check = _CHECKS.get(origin)
    return check is not None and check(value, typing.get_args(hint))


def _in_list(value: Any, hints: tuple[Any, ...]) -> bool:
    return type(value) is list and all(_within(item, hints[0]) for item in cast("list[Any]", value))


def _in_dict(value: Any, hints: tuple[Any, ...]) -> bool:
    return type(value) is dict and all(
        _within(key, hints[0]) and _within(item, hints[1]) for key, item in cast("dict[Any, Any]", value).items()
    )


def _in_tuple(value: Any, hints: tuple[Any, ...]) -> bool:
    if type(value) is not tuple:
        return False
    items = cast("tuple[Any, ...]", value)
    if len(hints) == 2 and hints[1] is ...:
        return all(_within(item, hints[0]) for item in items)
    return len(items) == len(hints) and all(map(_within, items, hints))


def _in_union(value: Any, hints: tuple[Any, ...]) -> bool:
    """A union takes the member that fits exactly, whatever stands before it; among several that are more than a plain
    type pydantic chooses by rules of its own."""
    if type(value) not in _PLAIN:
        return False
    others = [hint for hint in hints if hint is not type(None)]
    return type(value) in hints or (len(others) == 1 and fits(value, others[0]))


def _in_literal(value: Any, choices: tuple[Any, ...]) -> bool:
    return any(type(value) is type(choice) and value == choice for choice in choices)


def _within(value: Any, hint: Any) -> bool:
    """As ``fits``, for a part: objects of a user's own class are left to pydantic, which may rebuild them."""
    return hint is Any or (type(value) in _PLAIN and fits(value, hint))


_CHECKS: dict[Any, Callable[[Any, tuple[Any, ...]], bool]] = {
    list: _in_list,
    dict: _in_dict,
    tuple: _in_tuple,
    typing.Union: _in_union,
    types.UnionType: _in_union,
    typing.Literal: _in_literal,
}
