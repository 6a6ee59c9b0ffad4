"""How ``map`` makes many calls of one: iterables are taken apart, everything else is the same for each call."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from itertools import repeat
from typing import Any, Generic, TypeVar, cast

from kapstan import specs
from kapstan.engine.pending import Resolvable
from kapstan.errors import MappingLengthMismatch, MappingMissingIterable
from kapstan.specs import TaskSpec

T = TypeVar("T")
_REST = inspect.Parameter.VAR_POSITIONAL
_KEYWORDS = inspect.Parameter.VAR_KEYWORD


class unmapped(Generic[T]):  # noqa: N801  (the name that users know)
    """In ``map``: the same value for every element, even if it is iterable."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value


def expanded(
    spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The calls of ``map``: arguments with the iterables replaced by their n-th elements; futures are waited for.

    Raises:
        MappingMissingIterable, MappingLengthMismatch: no argument is iterable, or they differ in length.
    """
    bound = specs.bound_arguments(spec.signature, spec.name, args, kwargs)
    columns: dict[str, list[Any]] = {}
    for name, given in bound.arguments.items():
        value: Any = given
        if isinstance(given, Resolvable):
            value = bound.arguments[name] = given.final_state().result()
        fixed = isinstance(value, (unmapped, str, bytes, dict)) or spec.signature.parameters[name].kind is _REST
        if not fixed and isinstance(value, Iterable):
            columns[name] = list(cast("Iterable[Any]", value))
    if not columns:
        raise MappingMissingIterable(f"{spec.name}.map(): no argument is iterable; pass at least one list of elements")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise MappingLengthMismatch(f"{spec.name}.map(): the iterables differ in length: {listed}")
    for name, value in bound.arguments.items():
        bound.arguments[name] = columns[name] if name in columns else _repeated(spec.signature.parameters[name], value)
    # Each argument is a column now, as long as the iterables or endless; rows of them are the calls.
    rows = zip(*bound.args, strict=False) if bound.args else repeat(())
    keywords = list(bound.kwargs)
    if not keywords:
        return [(row, {}) for row in rows]
    keyword_rows = zip(*bound.kwargs.values(), strict=False)
    return [
        (row, dict(zip(keywords, keyword_row, strict=True)))
        for row, keyword_row in zip(rows, keyword_rows, strict=False)
    ]


def _repeated(parameter: inspect.Parameter, value: Any) -> Any:
    """The same value for every call, in the form in which the parameter holds it."""
    if parameter.kind is _REST:
        return tuple(repeat(element) for element in value)
    if parameter.kind is _KEYWORDS:
        return {name: repeat(element) for name, element in value.items()}
    return repeat(cast("unmapped[Any]", value).value if isinstance(value, unmapped) else value)
