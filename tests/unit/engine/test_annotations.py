"""What ``fits`` accepts is what pydantic would have given back unchanged; the common annotations need no pydantic."""

# ruff: noqa: UP006, UP007, UP035, UP045  (the spellings of users are what is tested)
from __future__ import annotations

import subprocess
import sys
from typing import Any, Dict, List, Literal, Optional, Union

import pytest
from pydantic import ConfigDict, TypeAdapter, ValidationError

from kapstan.engine.annotations import fits

HINTS: list[Any] = [
    *(int, str, float, bool, bytes, None, list, dict, tuple, set, frozenset, Any),
    *(list[int], list[str], List[str], list[Any], list[float], list[bool], list[None], list[list[int]]),
    *(dict[str, int], Dict[str, int], dict[str, Any], dict[str, list[int]], dict[int, int], set[int]),
    *(tuple[int, ...], tuple[int, int], tuple[str, int], tuple[()], tuple[list[int], ...], list[tuple[int, int]]),
    *(Optional[int], Union[int, str], str | None, int | float, float | int, bool | int, str | bytes, dict | str),
    *(list[int] | None, list | None, Optional[list[str]], tuple[int, int] | None, list[int] | list[str]),
    *(Literal["a"], Literal[1], Literal[True, "a"], Literal[None, 1], list[Literal["a"]]),
    *(list[Optional[int]], dict[str, int | None], dict[str, str | int]),
]
VALUES: list[Any] = [
    *(None, 0, 1, -5, 2**70, True, False, 1.0, 1.5, float("inf"), "", "a", "1", b"x"),
    *([], [1], ["a"], [1, "a"], [True], [None], [1.0], [[1]], [["a"]], [(1, 2)], [{"a": 1}]),
    *({}, {"a": 1}, {"a": "b"}, {1: 2}, {"a": [1]}, {"a": None}),
    *((), (1,), (1, 2), ("a", 1), ("a", 1, 2), ([1],), {1}, {"a"}, frozenset({1})),
]


def is_same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, dict):
        return is_same(list(one), list(other)) and is_same(list(one.values()), list(other.values()))
    return one == other


@pytest.mark.parametrize("hint", HINTS, ids=str)
def test_what_fits_is_what_pydantic_leaves_as_it_is(hint: Any) -> None:
    adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    for value in VALUES:
        if fits(value, hint):
            try:
                converted = adapter.validate_python(value)
            except ValidationError as error:
                pytest.fail(f"{value!r} was accepted: {error}")
            assert is_same(converted, value), value


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (["a"], list[str]),
        ({"a": 1}, dict[str, int]),
        ((1, 2), tuple[int, int]),
        (None, str | None),
        (["a"], list[str] | None),
        ({"a": [1, None]}, dict[str, list[int | None]]),
        ("fast", Literal["fast", "slow"]),
    ],
)
def test_common_annotations_need_no_pydantic(value: Any, hint: Any) -> None:
    assert fits(value, hint)


def test_a_flow_of_plain_annotations_does_not_load_pydantic() -> None:
    code = (
        "import sys; from kapstan import flow\n"
        "def f(a: list[str], b: dict[str, int] | None = None): ...\n"
        "assert flow(f).spec.coerce({'a': ['x'], 'b': {'y': 1}}) == {'a': ['x'], 'b': {'y': 1}}\n"
        "sys.exit('pydantic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
