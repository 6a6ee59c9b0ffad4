"""The fingerprint of a task's code: equal as long as the code that it runs is the same, in every process, on every
machine and Python version.

It sees the syntax tree of the function, what it closes over, its defaults, and, through all that it uses of its own
package, functions, classes and constants. It does not see comments, docstrings, formatting, lines and paths; nor the
code of other packages, which counts by name. Where there is no source (a prompt, ``exec``, a file that has changed),
the byte code counts, which is that of one Python version. A variable that code of its module changes while it runs is
no constant and counts by name, too.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import types
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from kapstan.engine.decorated import Decorated
from kapstan.engine.fingerprint_code import Code, changes_itself, code_of_class, code_of_function, module_of
from kapstan.engine.fingerprint_lookup import MISSING, Lookup, lookup_of, reader
from kapstan.engine.fingerprint_names import Names, Origin, Path
from kapstan.engine.fingerprint_package import Package
from kapstan.engine.fingerprint_source import absolute, names_of_module
from kapstan.engine.fingerprint_values import constant, is_large, is_plain, items_of
from kapstan.engine.graph_digest import framed
from kapstan.identity import class_name, importable_name
from kapstan.specs import TaskSpec

VERSION = b"1"
MOST_PARTS, MOST_DEPTH = 500, 25
"""So many functions and classes are followed, and so far from the task's function; what is beyond counts by name."""
_BEYOND = f"not followed: more than {MOST_PARTS} functions and classes, or {MOST_DEPTH} steps away"


class Part(NamedTuple):
    """One thing that the fingerprint saw.

    Attributes:
        name: ``module:qualname`` of a function or class; of a variable ``name in module:qualname``.
        kind: function, class, constant, variable, object.
        note: why it is not seen as a whole; "" if it is.
    """

    name: str
    kind: str
    digest: str
    note: str = ""


class Fingerprint(NamedTuple):
    digest: str
    parts: tuple[Part, ...]


class _Watch(NamedTuple):
    """A variable that the fingerprint read, and how: it holds as long as that gives the same."""

    read: Callable[[], Any]
    value: Any
    token: bytes | None
    """Of a value that may be changed in place."""


def fingerprint(spec: TaskSpec) -> Fingerprint:
    """The fingerprint of the task's function; made anew where a variable that it read has changed."""
    known: tuple[Fingerprint, list[_Watch]] | None = spec.code
    if known is None or not all(map(_holds, known[1])):
        walk = _Walk(spec.fn)
        known = walk.run(spec.fn), walk.watches
        object.__setattr__(spec, "code", known)  # kept with the spec, which is frozen in everything else
    return known[0]


def _holds(watch: _Watch) -> bool:
    value = watch.read()
    if watch.token is not None:
        return constant(value) == (watch.token, "")
    return value is watch.value


class _Walk:
    def __init__(self, fn: Callable[..., Any]) -> None:
        function: Any = inspect.unwrap(fn)
        while isinstance(function, functools.partial):
            function = inspect.unwrap(cast("functools.partial[Any]", function).func)
        self._package = Package(str(getattr(function, "__module__", None) or type(function).__module__))
        self._todo: deque[tuple[str, Any, int]] = deque()
        self._parts: dict[str, list[Part]] = {}
        self._seen: dict[int, Any] = {}  # what is followed, kept alive: an id must not be given twice
        self._digests: dict[int, str] = {}  # of local functions
        self._shown: dict[str, Part] = {}
        self._open: set[int] = set()  # containers whose items are looked at
        self.watches: list[_Watch] = []

    def run(self, fn: Any) -> Fingerprint:
        top = self._token(fn, "the task's function", 0)
        while self._todo:
            label, subject, depth = self._todo.popleft()
            self._follow(label, subject, depth)
        parts = sorted(part for same in self._parts.values() for part in same)
        pieces = [top, *(piece.encode() for part in parts for piece in part[:3])]
        digest = hashlib.sha256(framed(VERSION, pieces)).hexdigest()
        return Fingerprint(digest, (*parts, *(self._shown[name] for name in sorted(self._shown))))

    # ------------------------------------------------------------------ values

    def _token(self, value: Any, shown: str, depth: int) -> bytes:
        """What stands for ``value`` in the code that uses it; code of the package is followed."""
        if value is MISSING:
            return b"missing"
        kind = cast("type[Any]", type(value))  # and not isinstance: a proxy says that it is something else
        if issubclass(kind, Decorated):
            return self._token(value.spec.fn, shown, depth)
        if kind is types.FunctionType:
            return self._function(value, shown, depth)
        if issubclass(kind, type):
            return self._class(value, depth)
        if kind is functools.partial:
            held = [value.func, list(value.args), value.keywords]
            return framed(b"partial", [self._token(part, shown, depth) for part in held])
        if kind is types.MethodType:
            return framed(b"method", [self._token(part, shown, depth) for part in (value.__func__, value.__self__)])
        if issubclass(kind, types.ModuleType):
            return b"module:" + importable_name(value.__name__).encode()
        wrapped: Any = inspect.getattr_static(value, "__wrapped__", None)
        if callable(wrapped) and depth <= MOST_DEPTH:  # functools.cache, and decorators that make objects
            return framed(b"wrapper", [class_name(kind).encode(), self._token(wrapped, shown, depth + 1)])
        return self._container(value, shown, depth) or self._plain(value, shown, depth)

    def _container(self, value: Any, shown: str, depth: int) -> bytes:
        items = items_of(value)
        if items is None or id(value) in self._open or len(self._open) > MOST_DEPTH:
            return b""
        self._open.add(id(value))
        tokens = [framed(b"item", [self._token(part, shown, depth) for part in item]) for item in items.parts]
        self._open.discard(id(value))
        return framed(items.label, tokens if items.ordered else sorted(tokens))

    def _plain(self, value: Any, shown: str, depth: int) -> bytes:
        kind = cast("type[Any]", type(value))
        token, note = constant(self._package.without_folder(value))
        is_own = self._package.owns(str(kind.__module__))
        if not note and is_own and changes_itself(kind):
            note = "its methods change it"
        if not note:
            self._show(shown, "constant", token)
            return framed(b"constant", [token, self._class(kind, depth)] if is_own else [token])
        self._show(shown, "object", b"", f"{note}: it counts by its class")
        return framed(b"object", [self._class(kind, depth)])

    def _show(self, name: str, kind: str, token: bytes, note: str = "") -> None:
        digest = hashlib.sha256(token).hexdigest()[:12] if token else ""
        self._shown.setdefault(name, Part(name, kind, digest, note))

    # ------------------------------------------------------------------ code

    def _function(self, function: types.FunctionType, shown: str, depth: int) -> bytes:
        module = str(function.__globals__.get("__name__") or function.__module__)
        label = f"{importable_name(module)}:{function.__code__.co_qualname}"
        wrapped = getattr(function, "__wrapped__", None)
        below = b"" if wrapped is None or depth > MOST_DEPTH else self._token(wrapped, shown, depth + 1)
        registry: Any = function.__dict__.get("registry")  # of functools.singledispatch
        known = cast("dict[Any, Any]", registry if isinstance(registry, types.MappingProxyType) else {})
        variants = list(known.values())
        inner = sorted(self._token(each, shown, depth + 1) for each in variants if each is not function)
        token = framed(b"function", [label.encode(), below, *inner])
        if not self._package.owns(module):
            return token
        if "<" not in function.__code__.co_qualname:
            self._enqueue(label, function, depth)
            return token
        if id(function) not in self._digests:  # others may have its name: what it does must stand in the token
            self._digests[id(function)] = "itself"
            self._seen[id(function)] = function
            self._digests[id(function)] = self._follow(label, function, depth + 1)
        return framed(b"local", [token, self._digests[id(function)].encode()])

    def _class(self, kind: type[Any], depth: int) -> bytes:
        label = class_name(kind)
        if self._package.owns(str(kind.__module__)):
            self._enqueue(label, kind, depth)
        return b"class:" + label.encode()

    def _enqueue(self, label: str, subject: Any, depth: int) -> None:
        if id(subject) in self._seen:
            return
        self._seen[id(subject)] = subject
        if len(self._seen) > MOST_PARTS or depth >= MOST_DEPTH:
            self._parts.setdefault(label, []).append(Part(label, _kind(subject), "", _BEYOND))
        else:
            self._todo.append((label, subject, depth + 1))

    def _follow(self, label: str, subject: Any, depth: int) -> str:
        """Add the part of a function or class; its digest."""
        if depth > MOST_DEPTH + 1:
            self._parts.setdefault(label, []).append(Part(label, _kind(subject), "", _BEYOND))
            return ""
        if isinstance(subject, types.FunctionType):
            code, lookup = code_of_function(subject), lookup_of(subject)
            pieces = [code.body, *self._defaults(subject, label, depth), *self._methods(subject, code, label, depth)]
            module_globals = subject.__globals__
        else:
            code = code_of_class(subject)
            if code is None:
                return self._without_source(label, subject, depth)
            module_globals = cast("dict[str, Any]", vars(module_of(subject)))
            pieces, lookup = [code.body], functools.partial(reader, module_globals)
        for path in sorted(code.names.free):
            pieces.append(self._used(path, lookup, code, module_globals, label, depth))
        for path, origin in sorted(code.names.imported.items()):
            pieces.append(self._imported(path, origin, module_globals, label, depth))
        digest = hashlib.sha256(framed(b"part", pieces)).hexdigest()
        self._parts.setdefault(label, []).append(Part(label, _kind(subject), digest, code.note))
        return digest

    def _without_source(self, label: str, kind: type[Any], depth: int) -> str:
        pieces: list[bytes] = []
        for name, value in sorted(vars(kind).items()):
            inner: Any = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
            if isinstance(inner, types.FunctionType):  # not what namedtuple and its like make: each version others
                counts = inner.__globals__.get("__name__") == kind.__module__
            else:
                counts = not (name.startswith("__") and name.endswith("__")) and not _is_descriptor(inner)
            if counts:
                pieces += [name.encode(), self._token(inner, f"{name} in {label}", depth)]
        digest = hashlib.sha256(framed(b"part", pieces)).hexdigest()
        self._parts.setdefault(label, []).append(Part(label, "class", digest, "there is no source of it"))
        return digest

    def _defaults(self, function: types.FunctionType, label: str, depth: int) -> list[bytes]:
        code, given = function.__code__, function.__defaults__ or ()
        positional = code.co_varnames[: code.co_argcount]
        named = {
            **dict(zip(positional[len(positional) - len(given) :], given, strict=True)),
            **(function.__kwdefaults__ or {}),
        }
        return [
            framed(name.encode(), [self._token(value, f"default of {name} in {label}", depth)])
            for name, value in sorted(named.items())
        ]

    def _methods(self, function: types.FunctionType, code: Code, label: str, depth: int) -> list[bytes]:
        """What a method uses of its own class, through its first parameter."""
        owner: Any = None
        outer = function.__code__.co_qualname.split(".")[:-1]
        for index, part in enumerate(outer):
            owner = function.__globals__.get(part) if index == 0 else getattr(owner, part, None)
        if not isinstance(owner, type):
            return []
        found: list[bytes] = []
        for name in sorted(code.attributes):
            value: Any = inspect.getattr_static(owner, name, MISSING)
            value = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
            if value is not MISSING and not isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType)):
                found.append(framed(name.encode(), [self._token(value, f"{name} in {label}", depth)]))
        return found

    # ------------------------------------------------------------------ names

    def _used(self, path: Path, lookup: Lookup, code: Code, module: dict[str, Any], label: str, depth: int) -> bytes:
        """What stands for a name that code uses from outside of it."""
        read = lookup(path[0])
        if read is None or (path[0].startswith("__") and path[0].endswith("__")):  # a builtin; __name__, __file__
            return framed(b"unbound", [path[0].encode()])
        value, consumed, holder = self._along(read(), path)
        shown = f"{'.'.join(consumed)} in {label}"
        origin = code.module.imports.get(path[0]) if len(consumed) == 1 else None
        if origin is not None and origin.name and self._package.owns(name := absolute(origin, module)):
            holder, consumed_there = name, (origin.name,)
        else:
            consumed_there = consumed[-1:]
        changed = holder and consumed_there in names_of_module(holder).changed
        if changed or consumed in code.names.changed or consumed in code.module.changed:
            self._show(shown, "variable", b"", "the program changes it while it runs: it counts by its name")
            return framed(b"variable", [".".join(consumed).encode()])
        token = self._token(value, shown, depth)
        known = (
            None if is_plain(value) or is_large(value) or items_of(value) is not None else constant(value)[0] or None
        )
        self.watches.append(_Watch(lambda: self._along(read(), path)[0], value, known))
        return framed(b"name", [".".join(consumed).encode(), token])

    def _along(self, value: Any, path: Path) -> tuple[Any, Path, str]:
        """What ``path`` leads to from the value of its first part, as far as modules of the package go; how far that
        is, and the module that it is an attribute of."""
        at, holder = 1, ""
        while at < len(path) and issubclass(type(value), types.ModuleType) and self._package.owns(value.__name__):
            try:
                inner = getattr(value, path[at])
            except Exception:  # noqa: BLE001  (a module's own __getattr__)
                break
            value, at, holder = inner, at + 1, value.__name__
        return value, path[:at], holder

    def _imported(self, path: Path, origin: Origin, module: dict[str, Any], label: str, depth: int) -> bytes:
        """What stands for a name that an import inside of a function binds."""
        name = absolute(origin, module)
        unbound = framed(b"import", [name.encode(), origin.name.encode()])
        if not self._package.owns(name):
            return unbound
        try:
            importlib.import_module(origin.loads or name)
            value: Any = importlib.import_module(name)
            if origin.name:
                value = getattr(value, origin.name, MISSING)
                value = importlib.import_module(f"{name}.{origin.name}") if value is MISSING else value
        except Exception as error:  # noqa: BLE001  (whatever a user's module raises)
            self._show(f"{'.'.join(path)} in {label}", "import", b"", f"it raises {type(error).__name__}")
            return unbound
        return self._used(path, lambda _: lambda: value, Code(b"", Names()), module, label, depth)


def _is_descriptor(value: Any) -> bool:
    return hasattr(cast("type[Any]", type(value)), "__get__")


def _kind(subject: Any) -> str:
    return "class" if isinstance(subject, type) else "function"
