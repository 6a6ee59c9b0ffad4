"""One digest for one content: how the inputs of a task call become part of its memo key.

Equal inputs give equal digests in every process and on every machine, whatever order sets and dicts were filled in,
whatever objects share memory, and also after they were pickled. Version ``2`` of the rules:

- ``1``, ``1.0``, ``True`` and ``"1"`` differ; ``0.0`` and ``-0.0`` differ; every NaN is one value; lists and tuples
  differ.
- Sets and dicts are unordered, an OrderedDict is not. Strings are compared by code points, without normalisation.
- Objects: their class, and what pickle would take of them without what only caches the rest (see ``object_state``).
- Classes are called as others import them, so ``__main__`` plays no part. Enum members by name, flags by number.
- A future counts as the call that it stands for, not as its value.
- Functions and classes: their names; lambdas and local functions also their code, defaults and closure. Their byte code
  is that of one Python version.
- What cannot be pickled (connections, locks, generators) counts by its class only; ``strict`` refuses it instead.
"""

from __future__ import annotations

import collections
import copyreg
import datetime
import decimal
import enum
import functools
import hashlib
import json
import pathlib
import reprlib
import types
import uuid
from collections.abc import Callable, Mapping
from typing import Any, cast

from kapstan.engine import table_forms
from kapstan.engine.graph_digest import Ambiguous, Child, Node, fold, framed, short
from kapstan.engine.object_state import NotKeyed, reduced, state_of
from kapstan.errors import UnkeyableInput
from kapstan.identity import class_name, importable_name

VERSION = b"2"


def digest(parameters: dict[str, Any], *, strict: bool = False) -> str:
    """22 characters that are equal only for equal arguments.

    Args:
        strict: refuse what would count by its class only.

    Raises:
        UnkeyableInput: with ``strict``; the message names the argument.
    """
    flat = _flat(parameters, 3)
    body = _encoded(parameters, strict=strict) if flat is None else flat
    return hashlib.sha256(VERSION + body).hexdigest()[:22]


def encode(value: Any) -> bytes:
    """The canonical bytes of ``value``: at most a few dozen, whatever its size."""
    return _Walk().encode(value)


def content(value: Any) -> tuple[bytes, list[str]]:
    """As ``encode`` and ``unkeyable``, in one go."""
    flat = _flat(value, 3)
    if flat is not None:
        return flat, []
    walk = _Walk()
    return walk.encode(value), sorted(set(walk.unkeyed))


def unkeyable(value: Any) -> list[str]:
    """The classes of what counts in ``value`` by its class only, such as ``["_thread.lock"]``."""
    walk = _Walk()
    walk.encode(value)
    return sorted(set(walk.unkeyed))


_TEXT_BYTES = 200


def described(parameters: Mapping[str, Any]) -> str:
    """The arguments in at most 200 bytes, for people and for ``difference``: name, digest and short repr of each."""
    room = max(8, _TEXT_BYTES // max(1, len(parameters)) - 14)
    parts = [
        [name[:24], digest({"": value})[:6], _short_repr(value, max(8, room - len(name[:24])))]
        for name, value in parameters.items()
    ]
    while len(text := json.dumps(parts, separators=(",", ":"))) > _TEXT_BYTES:
        parts.pop()
    return text


def difference(before: str, parameters: Mapping[str, Any]) -> str:
    """What differs between the arguments that ``before`` describes and ``parameters``: ``order: 'a' -> 'b'``."""
    try:
        known: dict[str, tuple[str, str]] = {name: (mark, text) for name, mark, text in json.loads(before)}
    except ValueError:
        return "other inputs"
    lines: list[str] = []
    for name, value in parameters.items():
        mark, text = known.get(name[:24], ("", "(not kept)"))
        if mark != digest({"": value})[:6]:
            lines.append(f"{name}: {text} -> {_short_repr(value, 60)}")
    lines += [
        f"{name}: {known[name][1]} -> (not given)" for name in known if name not in {key[:24] for key in parameters}
    ]
    return "; ".join(lines) or "other inputs"


def _short_repr(value: Any, width: int) -> str:
    try:
        text = reprlib.repr(value)
    except Exception:  # noqa: BLE001  (a user's __repr__)
        text = f"<{type(value).__qualname__}>"
    return (text if len(text) <= width else text[: width - 1] + "~").encode("ascii", "replace").decode()


def _encoded(parameters: dict[str, Any], *, strict: bool) -> bytes:
    walk = _Walk()
    body = walk.encode(parameters)
    if strict and walk.unkeyed:
        for name, value in parameters.items():
            found = unkeyable(value)
            if found:
                raise UnkeyableInput(
                    f"argument {name!r} holds {found[0]}, whose content no key can tell: pass what it is made from "
                    "(an address, a path), or make it inside the task"
                )
    return body


_FEW = 16
"""Up to so many plain items of a list or dict are folded on the spot; what stands in many places is met as often."""


def _flat(value: Any, depth: int) -> bytes | None:
    """What the node of ``value`` would be folded to, if it is plain, short and no deeper than ``depth``; else None."""
    kind = cast("type[Any]", type(value))
    scalar = _SCALARS.get(kind)
    if scalar is not None:
        return short(scalar(value))
    if (kind is not dict and kind is not list and kind is not tuple) or not depth or len(value) > _FEW:
        return None
    if kind is dict:
        pairs: list[tuple[bytes, bytes]] = []
        for key, item in value.items():
            of_key, of_item = _flat(key, 0), _flat(item, depth - 1)
            if of_key is None or of_item is None:
                return None
            pairs.append((of_key, of_item))
        pairs.sort()
        return short(framed(b"d", [part for pair in pairs for part in pair]))
    parts: list[bytes] = []
    for item in value:
        of_item = _flat(item, depth - 1)
        if of_item is None:
            return None
        parts.append(of_item)
    return short(framed(b"l" if kind is list else b"t", parts))


_NEW: Any = cast("Any", copyreg).__newobj__


class _Walk:
    """Turns a value into nodes; without recursion, since values may be nested deeper than Python's stack."""

    __slots__ = ("_index", "_nodes", "_values", "unkeyed")

    def __init__(self) -> None:
        self.unkeyed: list[str] = []
        self._nodes: list[Node] = []
        self._values: list[Any] = []  # also keeps temporary ones alive: an id must not be given twice
        self._index: dict[int, int] = {}

    def encode(self, value: Any) -> bytes:
        top = self.child(value)
        if isinstance(top, bytes):
            return top
        at = 0
        while at < len(self._values):
            self._nodes.append(self._node(self._values[at]))
            at += 1
        try:
            return fold(self._nodes)
        except Ambiguous:
            self.unkeyed.append("a set of objects that refer to each other and look alike")
            return short(b"?" + class_name(cast("type[Any]", type(value))).encode())

    def child(self, value: Any) -> Child:
        flat = _flat(value, 1)
        if flat is not None:
            return flat
        index = self._index.get(id(value))
        if index is None:
            index = self._index[id(value)] = len(self._values)
            self._values.append(value)
        return index

    def _node(self, value: Any) -> Node:
        kind = cast("type[Any]", type(value))
        child = self.child
        if kind is list or kind is tuple:
            return Node(b"l" if kind is list else b"t", [child(item) for item in value])
        if kind is dict:
            return Node(b"d", [child(part) for pair in list(value.items()) for part in pair], 2)
        if kind is set or kind is frozenset:
            return Node(b"S" if kind is set else b"Z", [child(item) for item in list(value)], 1)
        if getattr(kind, "memo_reference", None) is not None:
            return Node(b"@", [value.memo_reference.encode()])
        form = _FORMS.get(kind) or table_forms.form_of(kind)
        if form is not None:
            return Node(b"v", [child(part) for part in form(value)])
        return self._object(value, kind)

    def _object(self, value: Any, kind: type[Any]) -> Node:
        if isinstance(value, type):
            return Node(b"c", [short(class_name(value).encode())])
        name = short(class_name(kind).encode())
        if isinstance(value, enum.Flag):
            return Node(b"e", [name, self.child(value.value)])
        if isinstance(value, enum.Enum):
            return Node(b"e", [name, self.child(value.name or value.value)])
        try:
            known = state_of(value, kind)
            if known is not None:
                return Node(b"o", [name, self.child(known)])
            return self._reduced(value, kind, name)
        except NotKeyed:
            self.unkeyed.append(class_name(kind).replace(":", "."))
            return Node(b"?", [name])

    def _reduced(self, value: Any, kind: type[Any], name: bytes) -> Node:
        taken = reduced(value, kind)
        if isinstance(taken, str):
            module = importable_name(getattr(value, "__module__", None) or kind.__module__)
            return Node(b"g", [short(_text(module)), short(_text(taken))])
        make, args, state, items, pairs = taken
        bare = make is _NEW and len(args) == 1 and items is pairs is None
        if bare and args[0] is kind and (state is None or type(state) is dict):
            held = [self.child(part) for pair in cast("dict[str, Any]", state or {}).items() for part in pair]
            return Node(b"o", [name, b"", *held], 2)  # most objects: no nodes for the parts that say nothing
        listed = None if items is None else list(items)
        filled: Any = None if pairs is None else list(pairs)
        if filled is not None and not isinstance(value, collections.OrderedDict):
            filled = dict(filled)
        return Node(b"r", [name, *(self.child(part) for part in (make, args, state, listed, filled))])


# ---------------------------------------------------------------------------------------------- forms of single classes


def _function(function: types.FunctionType) -> tuple[Any, ...]:
    name = f"{importable_name(function.__module__ or '')}:{function.__qualname__}"
    if "<" not in function.__qualname__:
        return ("function", name)
    cells = [_cell(cell) for cell in function.__closure__ or ()]
    return ("function", name, function.__code__, function.__defaults__, function.__kwdefaults__, cells)


def _cell(cell: types.CellType) -> Any:
    try:
        return [cell.cell_contents]
    except ValueError:  # not filled yet
        return None


def _code(code: types.CodeType) -> tuple[Any, ...]:
    return ("code", code.co_code, code.co_names, code.co_consts, code.co_varnames, code.co_flags)


def _moment(value: Any) -> tuple[Any, ...]:
    return (type(value).__name__, value.replace(tzinfo=None).isoformat(), value.fold, value.tzinfo)


def _plain(value: Any) -> tuple[Any, ...]:
    return (type(value).__name__, repr(value))


def _memory(view: memoryview) -> tuple[Any, ...]:
    return ("memoryview", view.format, view.shape, view.tobytes())


def _partial(made: functools.partial[Any]) -> tuple[Any, ...]:
    attributes = vars(made) or None  # an empty dict comes to be when somebody looks for it
    return ("partial", made.func, made.args, made.keywords, attributes)


_EMPTY: dict[Any, Any] = {}
_FORMS: dict[type[Any], Callable[[Any], tuple[Any, ...]]] = {
    datetime.datetime: _moment,
    datetime.time: _moment,
    datetime.date: _plain,
    datetime.timedelta: _plain,
    decimal.Decimal: _plain,
    uuid.UUID: _plain,
    complex: _plain,
    functools.partial: _partial,
    memoryview: _memory,
    types.FunctionType: _function,
    types.CodeType: _code,
    types.ModuleType: lambda module: ("module", importable_name(module.__name__)),
    types.MappingProxyType: lambda proxy: ("mappingproxy", dict(proxy)),
    type(_EMPTY.keys()): lambda keys: ("keys", frozenset(keys)),
    type(_EMPTY.values()): lambda values: ("values", list(values)),
    type(_EMPTY.items()): lambda items: ("items", dict(items)),
    **dict.fromkeys(
        (pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PosixPath, pathlib.WindowsPath),
        lambda path: ("path", str(path)),
    ),
}


def _text(value: str) -> bytes:
    return b"s" + value.encode(errors="surrogatepass")


_SCALARS: dict[type[Any], Callable[[Any], bytes]] = {
    type(None): lambda _: b"n",
    bool: lambda value: b"T" if value else b"N",
    int: lambda value: b"i%x" % value,
    float: lambda value: b"f%b" % float.hex(value).encode(),
    str: _text,
    bytes: lambda value: b"y" + value,
    bytearray: lambda value: b"Y" + bytes(value),
}
