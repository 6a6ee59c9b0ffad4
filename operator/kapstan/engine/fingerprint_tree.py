"""A syntax tree as bytes that every Python version writes alike.

Written without what changes nothing: comments, lines, formatting and paths are not in a tree; docstrings, type comments
and the ``u`` of ``u"..."`` are left out, and so is every field that is empty, since later versions add some.
"""

from __future__ import annotations

import ast
from typing import Any, NamedTuple, cast

from kapstan.engine import canonical

_LEFT_OUT = frozenset({"ctx", "type_comment", "type_ignores", "kind"})
_DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)


def written(node: ast.AST) -> bytes:
    """The canonical bytes of a tree."""
    out: list[bytes] = []
    stack: list[Any] = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, ast.AST):
            fields = _fields(item)
            out.append(b"%b%d(" % (type(item).__name__.encode(), len(fields)))
            for name, value in reversed(fields):
                stack += [value, name.encode()]
        elif isinstance(item, list):
            listed = cast("list[Any]", item)
            out.append(b"[%d" % len(listed))
            stack += reversed(listed)
        elif isinstance(item, bytes):
            out.append(item + b"=")
        else:
            body = canonical.encode(item.value if isinstance(item, _Constant) else item)
            out.append(b"%d:%b" % (len(body), body))
    return b"".join(out)


class _Constant(NamedTuple):
    """A value of the program, which must not be taken for a part of the tree."""

    value: Any


def _fields(node: ast.AST) -> list[tuple[str, Any]]:
    if isinstance(node, ast.Constant):
        return [("value", _Constant(node.value))]
    found: list[tuple[str, Any]] = []
    for name in node._fields:
        value: Any = getattr(node, name, None)
        if name == "body" and isinstance(node, _DOCUMENTED):
            value = _without_docstring(cast("list[ast.stmt]", value))
        elif name == "values" and isinstance(node, ast.JoinedStr):
            value = _joined(cast("list[ast.expr]", value))
        elif name == "format_spec" and isinstance(value, ast.JoinedStr) and not _joined(value.values):
            continue
        if name not in _LEFT_OUT and value is not None and value != []:
            found.append((name, value))
    return found


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    documented = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return body[1:] if documented else body


def _joined(values: list[ast.expr]) -> list[ast.expr]:
    """The parts of an f-string, its texts put together: versions cut them differently."""
    parts: list[ast.expr] = []
    for part in values:
        if isinstance(part, ast.Constant) and parts and isinstance(parts[-1], ast.Constant):
            parts[-1] = ast.Constant(str(parts[-1].value) + str(part.value))
        else:
            parts.append(part)
    return [part for part in parts if not (isinstance(part, ast.Constant) and part.value == "")]
