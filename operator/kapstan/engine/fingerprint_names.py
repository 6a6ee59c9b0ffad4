"""The names that a function, class or module uses from outside of it, read from its syntax tree alone.

Python's own analysis (``symtable``, ``dis``) differs between versions and under ``-O``; what a tree says does not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

Path = tuple[str, ...]
"""A dotted name: ``("settings", "RATES")`` for ``settings.RATES``."""

_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_DEFINITION = (*_FUNCTION, ast.ClassDef)
_COMPREHENSION = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_CHANGES = frozenset(
    "add append appendleft clear discard extend extendleft insert pop popitem popleft remove reverse rotate setdefault "
    "sort subtract update".split()
)


class Origin(NamedTuple):
    """Where an import statement takes a name from.

    Attributes:
        level: how many dots stand before the module.
        name: "" for the module itself.
        loads: the module that ``import a.b.c`` loads, while it binds ``a``.
    """

    module: str
    level: int
    name: str
    loads: str = ""


@dataclass(slots=True)
class Names:
    """What a tree uses from outside of it.

    Attributes:
        free: dotted names whose first part is bound outside.
        changed: those of them that code in a function assigns to, deletes from, or calls ``append`` and its like of.
        changed_anywhere: the same, outside of functions too.
        imported: dotted names whose first part an import inside of the tree binds, with where it comes from.
        imports: what the import statements of a module bind.
    """

    free: set[Path] = field(default_factory=set[Path])
    changed: set[Path] = field(default_factory=set[Path])
    changed_anywhere: set[Path] = field(default_factory=set[Path])
    imported: dict[Path, Origin] = field(default_factory=dict[Path, Origin])
    imports: dict[str, Origin] = field(default_factory=dict[str, Origin])


def names(node: ast.AST) -> Names:
    """What ``node`` uses: a module, a function without its decorators, defaults and annotations, a class, or an
    expression."""
    top = _Scope(None, "outside")
    reader = _Reader()
    if isinstance(node, ast.Module):
        top = reader.new(None, "module")
        reader.read([(child, top) for child in node.body])
    elif isinstance(node, _DEFINITION):
        outer = [*node.bases, *node.keywords] if isinstance(node, ast.ClassDef) else []
        reader.scopes.append(top)
        reader.read([*reader.inside(node, top), *((part, top) for part in outer)])
    else:
        reader.scopes.append(top)
        reader.read([(node, top)])
    found = Names(imports=top.imports)
    for scope in reader.scopes:
        for path, changed in scope.used:
            _resolve(path, changed, scope, found)
    return found


def dotted(node: ast.AST) -> Path | None:
    """``a.b.c`` as a path; None for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if isinstance(node, ast.Name) else None


# ---------------------------------------------------------------------------------------------- reading


@dataclass(slots=True, eq=False)
class _Scope:
    parent: _Scope | None
    kind: str  # "outside", "module", "class", "function", "comprehension"
    bound: set[str] = field(default_factory=set[str])
    declared_global: set[str] = field(default_factory=set[str])
    declared_nonlocal: set[str] = field(default_factory=set[str])
    imports: dict[str, Origin] = field(default_factory=dict[str, Origin])
    used: list[tuple[Path, bool]] = field(default_factory=list[tuple[Path, bool]])  # with whether it is changed


_Todo = list[tuple[ast.AST, _Scope]]


class _Reader:
    """Notes for each scope what it binds and uses; without recursion, since trees may be deeper than Python's stack."""

    def __init__(self) -> None:
        self.scopes: list[_Scope] = []

    def new(self, parent: _Scope | None, kind: str) -> _Scope:
        self.scopes.append(scope := _Scope(parent, kind))
        return scope

    def read(self, todo: _Todo) -> None:
        while todo:
            node, scope = todo.pop()
            todo += self._visit(node, scope)

    def inside(self, node: Any, around: _Scope) -> _Todo:
        """The inner parts of a function or class, in a scope of their own."""
        scope = self.new(around, "class" if isinstance(node, ast.ClassDef) else "function")
        if isinstance(node, _FUNCTION):
            given = node.args
            listed = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            scope.bound.update(arg.arg for arg in listed if arg is not None)
        body = cast("list[ast.AST]", [node.body] if isinstance(node, ast.Lambda) else node.body)
        return [(part, scope) for part in (*getattr(node, "type_params", ()), *body)]

    def _visit(self, node: ast.AST, scope: _Scope) -> _Todo:
        if isinstance(node, _DEFINITION):
            if not isinstance(node, ast.Lambda):
                scope.bound.add(node.name)
            return [*self.inside(node, scope), *((part, scope) for part in _around(node))]
        if isinstance(node, _COMPREHENSION):
            inner = self.new(scope, "comprehension")
            first, *rest = _parts(node)
            return [(first, scope), *((part, inner) for part in rest)]
        if isinstance(node, ast.NamedExpr):
            home = scope
            while home.kind == "comprehension" and home.parent is not None:
                home = home.parent
            return [(node.target, home), (node.value, scope)]
        if isinstance(node, (ast.Name, ast.Attribute)):
            return _name(node, scope)
        _bind(node, scope)
        _note_change(node, scope)
        annotation = node.annotation if isinstance(node, ast.AnnAssign) else None
        return [(child, scope) for child in ast.iter_child_nodes(node) if child is not annotation]


def _around(node: Any) -> Iterator[ast.AST]:
    """What is evaluated where a function or class is defined."""
    yield from getattr(node, "decorator_list", ())
    if isinstance(node, ast.ClassDef):
        yield from (*node.bases, *node.keywords)
    else:
        yield from (default for default in (*node.args.defaults, *node.args.kw_defaults) if default is not None)


def _parts(node: Any) -> list[ast.AST]:
    """The parts of a comprehension, first the one that is evaluated outside of it."""
    elements = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
    first, *rest = node.generators
    inner = [part for other in rest for part in (other.target, other.iter, *other.ifs)]
    return [first.iter, first.target, *first.ifs, *inner, *elements]


def _name(node: ast.Name | ast.Attribute, scope: _Scope) -> _Todo:
    path = dotted(node)
    if path is None:
        assert isinstance(node, ast.Attribute)
        return [(node.value, scope)]
    stores = not isinstance(node.ctx, ast.Load)
    if stores and len(path) == 1:
        scope.bound.add(path[0])
    elif stores:
        scope.used.append((path[:-1], True))
    scope.used.append((path, stores))
    return []


def _bind(node: ast.AST, scope: _Scope) -> None:
    if isinstance(node, ast.Global):
        scope.declared_global.update(node.names)
    elif isinstance(node, ast.Nonlocal):
        scope.declared_nonlocal.update(node.names)
    elif isinstance(node, ast.Import):
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            scope.imports[name] = Origin(alias.name if alias.asname else name, 0, "", alias.name)
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            scope.imports[alias.asname or alias.name] = Origin(node.module or "", node.level, alias.name)
    elif isinstance(node, ast.MatchMapping):
        scope.bound.update(() if node.rest is None else (node.rest,))
    elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) or hasattr(node, "bound"):
        name: Any = getattr(node, "name", None)  # the last: TypeVar of Python 3.12
        scope.bound.update((name,) if isinstance(name, str) else ())


def _note_change(node: ast.AST, scope: _Scope) -> None:
    """Note what ``node`` changes in place."""
    target: ast.AST | None = None
    if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
        target = node.value
        while isinstance(target, ast.Subscript):
            target = target.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CHANGES:
        target = node.func.value
    path = None if target is None else dotted(target)
    if path is not None:
        scope.used.append((path, True))


# ---------------------------------------------------------------------------------------------- resolving


def _resolve(path: Path, changed: bool, scope: _Scope, found: Names) -> None:
    """Add ``path``, used in ``scope``, to what is used from outside, unless something inside binds it."""
    name = path[0]
    at: _Scope | None = scope
    while at is not None and at.kind != "module" and name not in at.declared_global:
        visible = at.kind != "class" or at is scope
        if visible and name not in at.declared_nonlocal:
            if name in at.imports:
                found.imported[path] = at.imports[name]
                return
            if name in at.bound:
                return
        at = at.parent
    found.free.add(path)
    if changed:
        found.changed_anywhere.add(path)
    if changed and _in_function(scope):
        found.changed.add(path)


def _in_function(scope: _Scope) -> bool:
    at: _Scope | None = scope
    while at is not None and at.kind != "function":
        at = at.parent
    return at is not None
