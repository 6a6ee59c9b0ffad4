"""Every rule of ours is broken by a row of the one table, so that CEL and Python are compared for each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import get_args

import pytest
from pydantic import BaseModel
from tests.contract.bad_samples import BAD_SAMPLES

from kapstan.resources import KINDS
from kapstan.resources.base import Model
from kapstan.resources.rule import Rule


def models_below(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        yield from (found for part in parts(field.annotation) for found in models_below(part))


def parts(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from parts(argument)


RULES = {
    f"{kind}.{model.__name__}.{rule.field}:{rule.message[:40]}": rule
    for kind, top in KINDS.items()
    for model in models_below(top)
    if issubclass(model, Model)
    for rule in model.rules
    if rule.cel is not None
}


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_a_bad_sample_breaks_it(rule: Rule) -> None:
    text = re.sub(r"%[sd]", ".+", re.escape(rule.message).replace("\\%", "%"))
    broken = [sample.id for sample in BAD_SAMPLES if sample.ours and re.fullmatch(text, sample.message)]
    assert broken, f"no row of tests/contract/bad_samples shows: {rule.message}"


def test_a_rule_names_its_field_and_the_fix() -> None:
    for name, rule in RULES.items():
        said, _, fix = rule.message.partition(": ")
        assert rule.field.rpartition(".")[2] in said, name
        assert fix, name


def test_a_rule_with_values_formats_them_in_cel() -> None:
    rule = Rule("low", "it's low (%d)", lambda *_: False, "self.low > 0", arguments=("low",))
    assert rule.as_validation()["messageExpression"] == "'it\\'s low (%d)'.format([self.low])"
