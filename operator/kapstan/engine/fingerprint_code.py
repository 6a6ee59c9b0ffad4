"""The code of one function or class as the fingerprint reads it: its bytes, and what it uses from outside."""

from __future__ import annotations

import ast
import copy
import functools
import sys
import types
from dataclasses import dataclass, field
from typing import Any, cast

from kapstan.engine import canonical
from kapstan.engine.fingerprint_names import Names, dotted, names
from kapstan.engine.fingerprint_source import Source, is_rewritten, source_of
from kapstan.engine.fingerprint_tree import written
from kapstan.identity import importable_name, loaded


@dataclass(slots=True)
class Code:
    """Attributes:
    body: of its syntax tree; without source of its byte code.
    names: what it uses from outside.
    module: the same of all code of its module, for what that changes.
    attributes: those of its first parameter that it uses, such as ``rate`` of ``self.rate``.
    note: why it is not the syntax tree; "" if it is.
    """

    body: bytes
    names: Names
    module: Names = field(default_factory=Names)
    attributes: frozenset[str] = frozenset()
    note: str = ""


def code_of_function(function: types.FunctionType) -> Code:
    source = source_of(function.__code__.co_filename, function.__globals__)
    node: Any = None if source is None else source.function_node(function.__code__)
    if source is None or node is None:
        return _compiled(function, "there is no source of it")
    if not is_rewritten(function.__globals__) and not source.made(function.__code__):
        return _compiled(function, "its file is another one than that it was imported from")
    used = names(node)
    decorators: list[ast.expr] = []
    for decorator in getattr(node, "decorator_list", ()):
        if not _is_ours(decorator, function.__globals__):
            decorators.append(decorator)
            used.free |= names(decorator).free
    if decorators != getattr(node, "decorator_list", []):
        node = copy.copy(node)
        node.decorator_list = decorators
    return Code(written(node), used, source.names, _attributes(node))


def code_of_class(kind: type[Any]) -> Code | None:
    """None: there is no source."""
    source, space, nodes = _of_class(kind)
    if source is None or not nodes or not _made(kind, source):
        return None
    used = Names()
    for node in nodes:
        inner = names(node)
        used.free |= inner.free
        used.changed |= inner.changed
        used.imported |= inner.imported
    bodies = [written(_without_ours(node, space)) for node in nodes]
    return Code(b"".join(bodies), used, source.names)


def _without_ours(node: ast.ClassDef, module_globals: dict[str, Any]) -> ast.ClassDef:
    """``node`` whose methods have no ``@task`` and ``@flow``."""
    body: list[ast.stmt] = [copy.copy(part) for part in node.body]
    for part in body:
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
            part.decorator_list = [other for other in part.decorator_list if not _is_ours(other, module_globals)]
    node = copy.copy(node)
    node.body = body
    return node


def changes_itself(kind: type[Any]) -> bool:
    """Whether methods of ``kind`` change its objects after they were made."""
    _, _, nodes = _of_class(kind)
    methods = [
        part for node in nodes for part in node.body if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    return any(_changes_first(method) for method in methods if method.name not in _MAKERS)


_MAKERS = frozenset({"__init__", "__new__", "__post_init__", "__setstate__"})


def _changes_first(method: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    first = [*method.args.posonlyargs, *method.args.args][:1]
    changed = names(ast.Module(list(method.body), [])).changed_anywhere if first else set[tuple[str, ...]]()
    return any(path[0] == first[0].arg for path in changed)


def _of_class(kind: type[Any]) -> tuple[Source | None, dict[str, Any], list[ast.ClassDef]]:
    """The source of the class's module, the module's variables, and what defines the class: several under an ``if``."""
    module = module_of(kind)
    file = getattr(module, "__file__", None)
    space = cast("dict[str, Any]", {} if module is None else vars(module))
    source = source_of(file, space) if file else None
    return source, space, [] if source is None else source.class_nodes(kind.__qualname__)


def module_of(kind: type[Any]) -> Any:
    return loaded(importable_name(kind.__module__)) or sys.modules.get(kind.__module__)


def _made(kind: type[Any], source: Source) -> bool:
    """Whether the methods of ``kind`` are those of ``source``."""
    for value in vars(kind).values():
        function = getattr(value, "__func__", value)
        if isinstance(function, types.FunctionType) and function.__code__.co_qualname.startswith(
            f"{kind.__qualname__}."
        ):
            if is_rewritten(function.__globals__):
                return True
            if source.function_node(function.__code__) is not None and not source.made(function.__code__):
                return False
    return True


def _compiled(function: types.FunctionType, note: str) -> Code:
    code = function.__code__
    body = b"%b:%b" % (str(sys.implementation.cache_tag).encode(), canonical.encode(code))
    used = Names(free={(name,) for name in _global_names(code) if name in function.__globals__})
    used.free |= {(name,) for name in code.co_freevars}
    return Code(body, used, note=f"{note}: its byte code counts, which is that of this Python version")


def _global_names(code: types.CodeType) -> set[str]:
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _global_names(constant)
    return found


def _is_ours(decorator: ast.expr, module_globals: dict[str, Any]) -> bool:
    """Whether it is ``@task`` or ``@flow``, whose options are no part of the code."""
    path = dotted(decorator.func if isinstance(decorator, ast.Call) else decorator)
    value: Any = None if path is None else module_globals.get(path[0])
    for name in () if path is None else path[1:]:
        value = getattr(value, name, None)
    while type(value) is functools.partial:
        value = value.func
    return str(getattr(value, "__module__", "")).partition(".")[0] == "kapstan"


def _attributes(node: Any) -> frozenset[str]:
    given = getattr(node, "args", None)
    first = [*given.posonlyargs, *given.args][:1] if isinstance(given, ast.arguments) else []
    if not first:
        return frozenset()
    paths = [dotted(part) for part in ast.walk(node) if isinstance(part, ast.Attribute)]
    return frozenset(path[1] for path in paths if path is not None and path[0] == first[0].arg)
