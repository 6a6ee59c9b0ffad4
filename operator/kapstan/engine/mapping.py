"""How ``map`` makes many calls of one: iterables are taken apart, everything else is the same for each call."""

from __future__ import annotations

import inspect
import io
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any, Generic, TypeVar, cast

from kapstan.engine.pending import Resolvable
from kapstan.errors import MappingLengthMismatch, MappingMissingIterable
from kapstan.specs import TaskSpec

T = TypeVar("T")
_WHOLE = (str, bytes, bytearray, io.IOBase)  # iterable, but nobody means their elements


class unmapped(Generic[T]):  # noqa: N801  (the name that users know)
    """In ``map``: the same value for every element, even if it is iterable."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value


def expanded(
    spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The calls of ``map``: arguments with the iterables replaced by their n-th elements; futures are waited for.

    What goes to ``*args`` and ``**kwargs`` is taken apart like any other argument.

    Raises:
        ParameterError: the arguments do not fit.
        MappingMissingIterable, MappingLengthMismatch: no argument is iterable, or they differ in length.
    """
    bound = spec.bound(args, kwargs)
    # Each argument becomes a column, as long as the iterables or endless; rows of them are the calls.
    positional = [_column(value) for value in bound.args]
    keyword = {name: _column(value) for name, value in bound.kwargs.items()}
    lengths = {
        name: len(column)
        for name, column in [*zip(_names(bound), positional, strict=True), *keyword.items()]
        if isinstance(column, list)
    }
    if not lengths:
        raise MappingMissingIterable(f"{spec.name}.map(): no argument is iterable; pass at least one list of elements")
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise MappingLengthMismatch(f"{spec.name}.map(): the iterables differ in length: {listed}")
    rows: Iterator[tuple[Any, ...]] = zip(*positional, *keyword.values(), strict=False)
    if not keyword:
        return [(row, {}) for row in rows]
    count = len(positional)
    return [(row[:count], dict(zip(keyword, row[count:], strict=True))) for row in rows]


def _column(given: Any) -> list[Any] | repeat[Any]:
    """The values of one argument, one for each call."""
    value = given.final_state().result() if isinstance(given, Resolvable) else given
    if isinstance(value, unmapped):
        return repeat(cast("unmapped[Any]", value).value)
    if isinstance(value, Iterable) and not isinstance(value, _WHOLE):
        return list(cast("Iterable[Any]", value))
    return repeat(value)


def _names(bound: inspect.BoundArguments) -> list[str]:
    """What the positional arguments are called in messages; those of ``*args`` by their place in it."""
    ordinary = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [name for name, parameter in bound.signature.parameters.items() if parameter.kind in ordinary]
    return [names[i] if i < len(names) else f"argument {i + 1}" for i in range(len(bound.args))]
