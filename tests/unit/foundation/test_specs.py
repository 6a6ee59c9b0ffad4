from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

import pytest

from kapstan import specs
from kapstan.errors import ParameterError


def charge(user: str, amount: int = 5, *rest: int, note: str = "", **more: int) -> None: ...


def spec_of(fn: Callable[..., Any]) -> specs.TaskSpec:
    signature, own = specs.signatures_of(fn)
    return specs.TaskSpec("t", "charge", fn, is_async=False, signature=signature, own_signature=own)


def test_binding_applies_defaults_and_names_what_does_not_fit() -> None:
    assert spec_of(charge).bind(("ann",), {"x": 1}) == {
        "user": "ann",
        "amount": 5,
        "rest": (),
        "note": "",
        "more": {"x": 1},
    }
    with pytest.raises(ParameterError, match=r"charge\(user: .*missing a required argument: 'user'"):
        spec_of(charge).bind((), {})


def injecting(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn("session", *args, **kwargs)

    return wrapper


def without_the_second(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(user: str) -> Any:
        return fn(user, 5)

    return wrapper


def test_a_call_is_read_by_the_function_where_it_fits_and_else_by_its_decorator() -> None:
    load = spec_of(injecting(lambda session, table: None))
    assert load.bind(("session", "users"), {}) == {"session": "session", "table": "users"}
    assert load.bind(("users",), {}) == {"args": ("users",), "kwargs": {}}
    assert load.bind((), {"table": "users"}) == {"args": (), "kwargs": {"table": "users"}}
    narrow = spec_of(without_the_second(charge))
    assert narrow.bind(("ann",), {}) == {"user": "ann"}
    with pytest.raises(ParameterError, match="too many positional arguments"):
        narrow.bind(("ann", 5), {})


def flow_of(fn: Callable[..., Any]) -> specs.FlowSpec:
    signature, own = specs.signatures_of(fn)
    return specs.FlowSpec("f", "f", fn, is_async=False, signature=signature, own_signature=own)


def test_parameters_that_come_by_name_reach_the_function() -> None:
    def arranged(fn: Callable[..., Any], **parameters: Any) -> tuple[Any, ...]:
        bound = flow_of(fn).arranged(parameters)
        return bound.args, bound.kwargs

    assert arranged(charge, user="ann", colour="red") == (("ann",), {"colour": "red"})
    assert arranged(charge, user="ann", more={"a": 1}, b=2) == (("ann",), {"a": 1, "b": 2})
    assert arranged(charge, user="ann", amount=1, rest=(2, 3)) == (("ann", 1, 2, 3), {})
    assert arranged(lambda a, /, b=1: None, b=2, a=1) == ((1, 2), {})
    assert arranged(injecting(lambda session, table: None), table="users") == ((), {"table": "users"})
    with pytest.raises(ParameterError, match="flow f has no parameter 'b'; it has a"):
        arranged(lambda a: None, a=1, b=2)
    with pytest.raises(ParameterError, match="flow f needs the parameter 'a'"):
        arranged(lambda a, **more: None, b=2)


MANY = sys.maxsize
# fmt: off
ARITIES: list[tuple[Callable[..., Any], tuple[int, int]]] = [
    (lambda: 0, (0, 0)),
    (lambda a: 0, (1, 1)),
    (lambda a, b: 0, (2, 2)),
    (lambda a, b=1: 0, (1, 2)),
    (lambda a=1, b=2: 0, (0, 2)),
    (lambda a, /: 0, (1, 1)),
    (lambda a, /, b: 0, (2, 2)),
    (lambda a, b=1, /, c=2: 0, (1, 3)),
    (lambda *rest: 0, (0, MANY)),
    (lambda a, *rest: 0, (1, MANY)),
    (lambda a, b=1, *rest: 0, (1, MANY)),
    (lambda a, /, b=1, *rest: 0, (1, MANY)),
    (lambda **more: 0, (0, 0)),
    (lambda a, **more: 0, (1, 1)),
    (lambda *rest, **more: 0, (0, MANY)),
    (lambda *, k=1: 0, (0, 0)),
    (lambda a, *, k=1: 0, (1, 1)),
    (lambda a, *rest, k=1, **more: 0, (1, MANY)),
    (lambda *, k: 0, (1, 0)),
    (lambda a, *, k: 0, (1, 0)),
    (lambda a, *, j=1, k: 0, (1, 0)),
    (lambda a=1, *rest, k: 0, (1, 0)),
    (lambda a=1, *, k, **more: 0, (1, 0)),
]
# fmt: on


def signature(fn: Callable[..., Any]) -> str:
    return str(inspect.signature(fn))


@pytest.mark.parametrize(("fn", "arity"), ARITIES, ids=lambda value: signature(value) if callable(value) else "")
def test_the_arity_says_how_many_positional_arguments_fit_as_a_call_does(
    fn: Callable[..., Any], arity: tuple[int, int]
) -> None:
    spec = specs.TaskSpec("t", "t", fn, is_async=False, signature=inspect.signature(fn))
    assert spec.arity == arity
    least, most = spec.arity
    for count in range(6):
        try:
            fn(*range(count))
        except TypeError:
            assert not least <= count <= most, f"{count} arguments do not fit"
        else:
            assert least <= count <= most, f"{count} arguments fit"


def test_the_arity_of_a_builtin_without_a_signature_is_any() -> None:
    assert specs.TaskSpec("t", "max", max, is_async=False, signature=specs.signatures_of(max)[0]).arity == (0, MANY)


def test_the_last_delay_of_a_list_repeats() -> None:
    assert [specs.nth_delay((1.0, 10.0), n) for n in (1, 2, 3)] == [1.0, 10.0, 10.0]
    assert specs.nth_delay(2.0, 7) == 2.0
    assert specs.nth_delay((), 1) == 0.0
