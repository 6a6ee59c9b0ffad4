"""What of an object counts in a key: what pickle would take of it, less what only caches the rest.

Who fills an attribute tells whether it is a cache: the value of a ``cached_property`` (of any library), an attribute
that nothing but a property or an operator such as ``__hash__`` sets, a dataclass field that is neither given nor
compared. A class whose caches are filled in another way leaves them out in its ``__getstate__``.
"""

from __future__ import annotations

import copyreg
import dataclasses
import dis
import functools
import inspect
import pathlib
import types
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from kapstan.exception_state import pickles_itself, state_of_exception

Reduced = tuple[Any, Any, Any, Iterable[Any] | None, Iterable[tuple[Any, Any]] | None]
"""Maker, its arguments, state, items, pairs: what ``__reduce_ex__`` gives."""

_LOOKS = 1000
"""How many parts of two answers of one ``__reduce__`` are compared."""


_SET_REDUCES: tuple[Any, ...] = (cast("Any", set).__reduce__, cast("Any", frozenset).__reduce__)


class NotKeyed(Exception):
    """No key can stand for the content of this object."""


def state_of(value: Any, kind: type[Any]) -> Any:
    """What stands for the content of ``value`` beside its class; None: it is for ``reduced`` to say.

    Raises:
        NotKeyed: it cannot be told.
    """
    if hasattr(kind, "__pydantic_private__") and hasattr(kind, "model_fields"):
        extra = getattr(value, "__pydantic_extra__", None) or None
        private = getattr(value, "__pydantic_private__", None) or None
        return (without_caches(cast("dict[str, Any]", vars(value)), kind), extra, private)
    if isinstance(value, BaseException) and not pickles_itself(kind):
        state = state_of_exception(value)
        attributes = {name: held for name, held in state.attributes.items() if name != "__notes__"}
        return (state.args, without_caches(attributes, kind), state.members)
    if isinstance(value, (set, frozenset)) and kind.__reduce__ in _SET_REDUCES:
        return ("set", frozenset(cast("set[Any]", value)), _merged(cast("Any", object).__getstate__(value), kind))
    if isinstance(value, pathlib.PurePath):
        return ("path", str(value), without_caches(getattr(value, "__dict__", {}), kind))
    if kind.__module__ == "zoneinfo":
        zone = getattr(cast("Any", value), "key", None)
        if zone is None:
            raise NotKeyed
        return ("zone", zone)
    return None


def reduced(value: Any, kind: type[Any]) -> str | Reduced:
    """What pickle would take of ``value``: the name of a global, or maker, arguments and state without caches.

    Raises:
        NotKeyed: it cannot be pickled, or says something else each time.
    """
    reducer = copyreg.dispatch_table.get(kind)
    try:
        taken = value.__reduce_ex__(4) if reducer is None else reducer(value)
        if _says_itself(kind):
            again = value.__reduce_ex__(4) if reducer is None else reducer(value)
            if not _same(taken, again, iter(range(_LOOKS))):
                raise NotKeyed
        if isinstance(taken, str):
            return taken
        parts: tuple[Any, ...] = (*taken, None, None, None)
    except Exception as error:  # whatever an object's own protocol raises: it cannot be pickled
        raise NotKeyed from error
    make, args, state, items, pairs = parts[:5]
    state = _merged(state, kind) if _plain_state(kind) else _own_state(value, kind, state)
    return make, args, state, items, pairs


def _plain_state(kind: type[Any]) -> bool:
    return getattr(kind, "__getstate__", None) is getattr(object, "__getstate__")  # noqa: B009  (no stub has it)


def _merged(state: Any, kind: type[Any]) -> Any:
    """The attributes by name, those in slots too; None if there are none. Another state as it is."""
    parts: tuple[Any, ...] = cast("tuple[Any, ...]", state) if isinstance(state, tuple) else (state,)
    if not all(part is None or isinstance(part, dict) for part in parts):
        return cast("Any", state)
    merged: dict[str, Any] = {}
    for part in parts:
        merged.update(part or {})
    return without_caches(merged, kind) or None


def _own_state(value: Any, kind: type[Any], state: Any) -> Any:
    """As ``state``; by name where a frozen dataclass with slots gave a bare list of its fields."""
    if getattr(kind.__getstate__, "__module__", "") == "dataclasses":
        state = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(kind)}
    return _merged(state, kind) if isinstance(state, dict) else state


# ---------------------------------------------------------------------------------------------- one answer, twice


def _says_itself(kind: type[Any]) -> bool:
    """Whether code of a user decides what pickle takes."""
    names = ("__reduce_ex__", "__reduce__", "__getstate__")
    return any(isinstance(getattr(kind, name, None), types.FunctionType) for name in names)


def _same(one: Any, other: Any, looks: Iterator[int]) -> bool:
    """Whether two answers of one object agree, as far as ``looks`` reaches; what is the same object in both does."""
    if one is other or next(looks, None) is None:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        pairs = zip(cast("list[Any]", one), other, strict=False)
        return len(cast("list[Any]", one)) == len(other) and all(_same(left, right, looks) for left, right in pairs)
    if isinstance(one, dict):
        known = cast("dict[Any, Any]", one)
        return known.keys() == other.keys() and all(_same(known[key], other[key], looks) for key in known)
    if isinstance(one, (str, bytes, int, float, complex)):
        return bool(one == other) or one != one
    if isinstance(one, (set, frozenset)) or hasattr(one, "__next__"):
        return True
    return _same(one.__reduce_ex__(4), other.__reduce_ex__(4), looks)


# ---------------------------------------------------------------------------------------------- caches


def without_caches(attributes: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    """``attributes`` of an object of class ``kind`` without those that only cache others."""
    caches = _caches(kind)
    return {name: value for name, value in attributes.items() if name not in caches} if caches else dict(attributes)


_known: weakref.WeakKeyDictionary[type[Any], frozenset[str]] = weakref.WeakKeyDictionary()


def _caches(kind: type[Any]) -> frozenset[str]:
    found = _known.get(kind)
    if found is None:
        found = _known[kind] = frozenset(_find_caches(kind))
    return found


def _find_caches(kind: type[Any]) -> Iterator[str]:
    seen: set[str] = set()
    read: set[str] = set()
    written: set[str] = set()
    for base in kind.__mro__:
        if base.__module__ == "builtins":
            continue
        for name, attribute in vars(base).items():
            if name not in seen and _is_lazy(attribute):
                yield name
            seen.add(name)
            for function, reads in _functions(name, attribute):
                (read if reads else written).update(_stores(function, but_none=name == "__init__"))
    yield from read - written
    if dataclasses.is_dataclass(kind):
        yield from (field.name for field in dataclasses.fields(kind) if not field.init and field.compare is False)


_CALLED: tuple[type[Any], ...] = (types.FunctionType, classmethod, staticmethod, functools.partial)


def _is_lazy(attribute: Any) -> bool:
    """Whether a value of the same name in the object's dict is a computed one that was kept there: it hides a property,
    or a descriptor that only gives."""
    kind = cast("type[Any]", type(attribute))
    if kind is property:
        return attribute.fset is None
    return hasattr(kind, "__get__") and not hasattr(kind, "__set__") and not isinstance(attribute, _CALLED)


_OPERATORS = frozenset(
    f"__{name}__"
    for name in "hash repr str bytes format eq ne lt le gt ge len bool contains iter getitem getattr int float".split()
)


def _functions(name: str, attribute: Any) -> Iterator[tuple[types.FunctionType, bool]]:
    """The functions of a class attribute, each with whether it only reads as far as its callers can see."""
    if isinstance(attribute, property):
        for function, reads in ((attribute.fget, True), (attribute.fset, False), (attribute.fdel, False)):
            if isinstance(function, types.FunctionType):
                yield function, reads
    elif type(attribute) in _CALLED[:3]:
        function = inspect.unwrap(getattr(attribute, "__func__", attribute))
        if isinstance(function, types.FunctionType):
            yield function, name in _OPERATORS


def _stores(function: types.FunctionType, *, but_none: bool) -> Iterator[str]:
    """The attributes that ``function`` sets on its first argument; ``but_none``: not where it sets None."""
    code = function.__code__
    if not code.co_argcount:
        return
    before: list[dis.Instruction] = []
    for instruction in dis.get_instructions(code):
        if instruction.opname == "STORE_ATTR" and before:
            target = before[-1].argval
            subject = cast("Any", target)[-1] if isinstance(target, tuple) else target
            value = before[-2] if len(before) > 1 else None
            is_none = value is not None and value.opname == "LOAD_CONST" and value.argval is None
            if subject == code.co_varnames[0] and not (but_none and is_none):
                yield str(instruction.argval)
        before = [*before[-1:], instruction]
