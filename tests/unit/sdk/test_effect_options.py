"""``effect``, ``exactly_once`` and what contradicts them."""

from __future__ import annotations

from typing import Any

import pytest

from kapstan import task
from kapstan.engine import chain
from kapstan.engine.steps.keyed import keyed
from kapstan.errors import ConfigurationError
from kapstan.states import EffectClass


def send(to: str) -> str:
    return to


@pytest.mark.parametrize(
    ("options", "effect"),
    [
        ({}, EffectClass.PURE),
        ({"effect": "pure"}, EffectClass.PURE),
        ({"effect": "IDEMPOTENT"}, EffectClass.IDEMPOTENT),
        ({"effect": EffectClass.TRANSACTIONAL}, EffectClass.TRANSACTIONAL),
        ({"exactly_once": True}, EffectClass.AT_MOST_ONCE),
        ({"exactly_once": False}, EffectClass.PURE),
        ({"exactly_once": True, "effect": "idempotent"}, EffectClass.IDEMPOTENT),
    ],
)
def test_the_class_that_options_ask_for(options: dict[str, Any], effect: EffectClass) -> None:
    assert task(send, name="effect-options", **options).spec.effect is effect


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"exactly_once": True, "effect": "pure"}, "code of class pure may run more than once"),
        ({"effect": "at_most_once", "persist_result": False}, "who repeats the call must find the result"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        task(send, name="effect-options-refused", **options)


def test_a_task_without_a_key_does_not_walk_the_step() -> None:
    (link,) = [link for link in chain.STEPS if link.step is keyed]
    assert not link.used_by(task(send, name="effect-options-plain").spec)
    assert link.used_by(task(send, name="effect-options-keyed", effect="idempotent").spec)
