"""How code reads the names that it uses from outside of it."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

MISSING = object()
"""The value of a name that is bound to nothing."""
Lookup = Callable[[str], Callable[[], Any] | None]


def lookup_of(function: types.FunctionType) -> Lookup:
    """How the value of a name that ``function`` uses is read: from its closure, else from its module."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))

    def find(name: str) -> Callable[[], Any] | None:
        cell = cells.get(name)
        return reader(function.__globals__, name) if cell is None else lambda: _content(cell)

    return find


def reader(module: dict[str, Any], name: str) -> Callable[[], Any] | None:
    return (lambda: module.get(name, MISSING)) if name in module else None


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return MISSING
