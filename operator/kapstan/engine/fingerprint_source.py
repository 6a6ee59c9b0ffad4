"""The source of functions and classes: the file's syntax tree, and the part of it that an object was made from.

A file may have changed since it was imported. Its tree then says nothing of the code that runs here, so code is
compared with what the file compiles to now.
"""

from __future__ import annotations

import ast
import copy
import functools
import importlib.machinery
import importlib.util
import linecache
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any, cast

from kapstan.engine.fingerprint_names import Names, Origin, names
from kapstan.identity import loaded

_TRIES = 10
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def parsed(text: str) -> ast.Module:
    """The tree of ``text``. CPython 3.11 counts the depth of all trees that are made at once together, and gives up the
    one that another thread, or the garbage collector, came between (python/cpython issue 106905).

    Raises:
        SyntaxError, ValueError: this Python cannot read it.
    """
    for _ in range(_TRIES - 1):
        try:
            return ast.parse(text)
        except SystemError:
            continue
    return ast.parse(text)


class Source:
    """The text of one file as a tree."""

    def __init__(self, text: str, file: str) -> None:
        """
        Raises:
            SyntaxError, ValueError: this Python cannot read it.
        """
        self._text = text
        self._file = file
        self.tree = parsed(text)
        self._definitions: dict[tuple[str, int], _Definition] = {}
        self._classes: dict[str, list[ast.ClassDef]] = {}
        self._lambdas: dict[int, list[ast.Lambda]] = {}
        self._index()

    def _index(self) -> None:
        todo: list[tuple[ast.AST, str]] = [(self.tree, "")]
        while todo:
            node, around = todo.pop()
            inner = around
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                line = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                self._definitions[node.name, line] = node
                inner = f"{around}{node.name}."
                if isinstance(node, ast.ClassDef):
                    self._classes.setdefault(around + node.name, []).append(node)
                else:
                    inner += "<locals>."
            elif isinstance(node, ast.Lambda):
                self._lambdas.setdefault(node.lineno, []).append(node)
            todo += [(child, inner) for child in ast.iter_child_nodes(node)]

    def class_nodes(self, qualname: str) -> list[ast.ClassDef]:
        return sorted(self._classes.get(qualname, []), key=lambda node: node.lineno)

    def function_node(self, code: types.CodeType) -> ast.AST | None:
        """The function that ``code`` was compiled from; None if that cannot be told."""
        if code.co_name != "<lambda>":
            found = self._definitions.get((code.co_name, code.co_firstlineno))
            return None if isinstance(found, ast.ClassDef) else found
        candidates = sorted(self._lambdas.get(code.co_firstlineno, []), key=lambda node: node.col_offset)
        if len(candidates) > 1:
            candidates = [node for node in candidates if _compiles_to(node, code)]
        return next((node for node in candidates if _holds(node, code)), candidates[0] if candidates else None)

    @functools.cached_property
    def names(self) -> Names:
        """Those of the whole module."""
        return names(self.tree)

    @functools.cached_property
    def _compiled(self) -> Mapping[tuple[str, int], list[types.CodeType]]:
        found: dict[tuple[str, int], list[types.CodeType]] = {}
        for code in _codes(compile(self._text, self._file, "exec", dont_inherit=True)):
            found.setdefault((code.co_name, code.co_firstlineno), []).append(code)
        return found

    def made(self, code: types.CodeType) -> bool:
        """Whether ``code`` is what this text compiles to."""
        return any(_same(code, other) for other in self._compiled.get((code.co_name, code.co_firstlineno), ()))


_MOST_SOURCES = 64
_known: dict[str, tuple[str, Source | None]] = {}


def source_of(file: str, module_globals: dict[str, Any]) -> Source | None:
    """The source of the module with these globals, as it is now; None if there is none."""
    linecache.checkcache(file)
    text = "".join(linecache.getlines(file, module_globals))
    known = _known.get(file)
    if known is None or known[0] != text:
        try:
            source = Source(text, file) if text else None
        except (SyntaxError, ValueError, RecursionError):
            source = None
        known = _known[file] = (text, source)
        if len(_known) > _MOST_SOURCES:
            _known.pop(next(iter(_known)), None)
    return known[1]


def names_of_module(name: str) -> Names:
    """The names of all code of a module that is loaded; none where it has no source."""
    module = loaded(name) or sys.modules.get(name)
    file = getattr(module, "__file__", None)
    source = source_of(file, vars(module)) if module is not None and file else None
    return Names() if source is None else source.names


def absolute(origin: Origin, module_globals: dict[str, Any]) -> str:
    """The full name of the module that an import statement of the module with these globals names."""
    if not origin.level:
        return origin.module
    package = str(module_globals.get("__package__") or module_globals.get("__name__") or "")
    try:
        return importlib.util.resolve_name("." * origin.level + origin.module, package)
    except ImportError:
        return origin.module


def is_rewritten(module_globals: dict[str, Any]) -> bool:
    """Whether a loader of somebody's own compiled the module (pytest rewrites asserts): its code is another one than
    that of the text."""
    loader: Any = getattr(module_globals.get("__spec__"), "loader", None) or module_globals.get("__loader__")
    return loader is not None and type(loader) not in (importlib.machinery.SourceFileLoader, type)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    todo = [code]
    while todo:
        code = todo.pop()
        yield code
        todo += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]


def _same(one: types.CodeType, other: types.CodeType) -> bool:
    if one.co_code != other.co_code or one.co_names != other.co_names or len(one.co_consts) != len(other.co_consts):
        return False
    if one.co_varnames != other.co_varnames or one.co_freevars != other.co_freevars:
        return False
    return all(
        _same(mine, theirs)
        if isinstance(mine, types.CodeType) and isinstance(theirs, types.CodeType)
        else type(mine) is type(theirs) and (mine == theirs or repr(mine) == repr(theirs))
        for mine, theirs in zip(one.co_consts, other.co_consts, strict=True)
    )


def _compiles_to(node: ast.Lambda, code: types.CodeType) -> bool:
    names: list[ast.expr] = [ast.Name(name, ast.Store()) for name in code.co_freevars]
    binding: list[ast.stmt] = [ast.Assign(names, ast.Constant(None))] if names else []
    args = copy.copy(node.args)  # the code of defaults stands outside
    args.defaults, args.kw_defaults = [], [None] * len(args.kwonlyargs)
    alone = ast.copy_location(ast.Lambda(args, node.body), node)  # other lines would be other code
    outer = parsed("def outer(): return None")
    cast("ast.FunctionDef", outer.body[0]).body = [*binding, ast.Return(alone)]
    compiled = compile(ast.fix_missing_locations(outer), "<lambda>", "exec", dont_inherit=True)
    (function,) = (part for part in compiled.co_consts if isinstance(part, types.CodeType))
    return any(isinstance(part, types.CodeType) and _same(part, code) for part in function.co_consts)


def _holds(node: ast.Lambda, code: types.CodeType) -> bool:
    """Whether the instructions of ``code`` stand in ``node``, as far as this Python tells where they stand."""
    begin, end = (node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)
    places = [(line, column) for line, _, column, _ in code.co_positions() if line is not None and column]
    return bool(places) and all(begin <= place <= end for place in places)
