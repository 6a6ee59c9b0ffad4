"""Names of runs: templates, and any callable."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from kapstan.engine.naming import run_name
from kapstan.errors import ConfigurationError


class Namer:
    def __call__(self) -> str:
        return "by-object"

    def method(self) -> str:
        return "by-method"

    def of(self, parameters: dict[str, Any]) -> str:
        return f"of-{parameters['user']}"


def prefixed(prefix: str, parameters: dict[str, Any] | None = None) -> str:
    return f"{prefix}-{(parameters or {}).get('user')}"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ""),
        ("plain", "plain"),
        ("charge-{user}-{amount:03d}", "charge-ann-007"),
        ("{order.real}", "8"),
        (Namer(), "by-object"),
        (Namer().method, "by-method"),
        (Namer().of, "of-ann"),
        (functools.partial(prefixed, "p"), "p-ann"),
        (lambda: "none", "none"),
        (lambda parameters: f"x-{parameters['user']}", "x-ann"),
        (lambda p: f"x-{p['user']}", "x-ann"),
        (lambda *, parameters: f"x-{parameters['user']}", "x-ann"),
        (lambda p="default": p, "default"),
        (lambda *rest, **more: f"{len(rest)}{len(more)}", "00"),
    ],
)
def test_names(given: Any, expected: str) -> None:
    assert run_name(given, {"user": "ann", "amount": 7, "order": 8}) == expected


@pytest.mark.parametrize("template", ["{nobody}", "{user.nothing}", "{user[key]}", "{0}", "{user:d}"])
def test_a_template_that_does_not_fit_names_the_parameters(template: str) -> None:
    with pytest.raises(ConfigurationError, match=r"run name '\{.*; the parameters are user, amount"):
        run_name(template, {"user": "ann", "amount": 7})


@pytest.mark.parametrize("given", [lambda: 5, lambda: None, lambda: ""])
def test_a_function_must_give_a_text(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="it must give a text"):
        run_name(given, {})
