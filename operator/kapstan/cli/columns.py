"""Reads a printer column's path from a manifest: the part of JSONPath that our custom resources use."""

from __future__ import annotations

import re
from typing import Any, cast

_STEP = re.compile(
    r"\.(?P<field>\w+)|\[(?P<index>-?\d+)(?P<slice>:)?\]|\[\?\(@\.(?P<key>\w+)==\"(?P<value>[^\"]*)\"\)\]"
)


def find(manifest: Any, path: str) -> Any:
    """The value at a path such as ``.status.conditions[?(@.type=="Ready")].status``; None where there is none.

    Raises:
        ValueError: a path of another form.
    """
    value, end = manifest, 0
    for step in _STEP.finditer(path):
        if step.start() != end:
            break
        end = step.end()
        value = _next(value, step)
        if value is None:
            return None
    if end != len(path):
        raise ValueError(f"{path!r}: only fields, indexes and equality filters are read, stopped at {path[end:]!r}")
    return value


def _next(value: Any, step: re.Match[str]) -> Any:
    if step["field"] is not None:
        return cast("dict[str, Any]", value).get(step["field"]) if isinstance(value, dict) else None
    if not isinstance(value, list):
        return None
    items = cast("list[Any]", value)
    if step["key"] is not None:
        return next((item for item in items if item.get(step["key"]) == step["value"]), None)
    index = int(step["index"])
    return items[index] if -len(items) <= index < len(items) else None
