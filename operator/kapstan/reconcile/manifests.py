"""Reads parts of manifests that may hold anything.

A schema that was changed by hand, an older one, or none at all lets objects through whose parts have any type. What the
loop reads of every object that it hears of must come out of them without an exception, or one of them holds up all.
Models refuse them later, one by one.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from kapstan.ports import Manifest


def within(value: Any, *names: str) -> Manifest:
    """The object below ``value`` by these names; empty where there is none."""
    for name in names:
        value = cast("Manifest", value).get(name) if isinstance(value, dict) else None
    return cast("Manifest", value) if isinstance(value, dict) else {}


def objects(value: Any) -> list[Manifest]:
    """The objects of a list; empty where it is none."""
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return [cast("Manifest", item) for item in items if isinstance(item, dict)]


def text(value: Any) -> str:
    """A text; empty where it is none."""
    return value if isinstance(value, str) else ""


def number(value: Any) -> int:
    """A whole number; 0 where it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def moment(value: Any) -> datetime | None:
    """A moment with its zone; None where it is none."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return found if found is not None and found.tzinfo is not None else None
