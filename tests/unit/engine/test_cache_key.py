"""The key of a run: of its task, and of what the cache policy, or the run itself, makes of it."""

from __future__ import annotations

import dataclasses
import logging
import threading
from typing import Any

import pytest

from kapstan import Task, settings, task
from kapstan.cache_policies import DEFAULT, FLOW_PARAMETERS, INPUTS, NO_CACHE, RUN_ID
from kapstan.engine import cache_key, task_run
from kapstan.engine.cache_key import key_of, key_text
from kapstan.errors import ConfigurationError, UnkeyableInput
from kapstan.states import EffectClass
from kapstan.tasks import task_input_hash


def charge(order: int = 0, session: Any = None) -> int:
    return order


def refund(order: int = 0, session: Any = None) -> int:
    return order


def key(of: Task[..., Any], *args: Any, effect: EffectClass | None = None, **kwargs: Any) -> str | None:
    spec = of.spec if effect is None else dataclasses.replace(of.spec, effect=effect)
    return key_of(task_run.prepare(spec, args, kwargs, ()))


def test_the_text_of_a_key_is_fixed() -> None:
    """Registers stand under these names: another text would do a charge again."""
    assert key_text("shop.tasks:charge", "args", "inputs-1") == "5fjoszuz5u4bm4x76ctvqffd25bbpcn4e2n6xmm63b4jtpzj6klq"
    parts = [("a", "args", "bc"), ("ab", "args", "c"), ("a", "run", "bc"), ("a", "user", "bc"), ("", "args", "abc")]
    texts = {key_text(identity, kind, value) for identity, kind, value in parts}  # pyright: ignore
    assert len(texts) == 5
    assert all(len(text) == 52 and text.isalnum() and text == text.lower() for text in texts)


def test_equal_calls_of_one_task_share_a_key_and_two_tasks_never_do() -> None:
    one, other = Task(charge, cache_policy=INPUTS), Task(refund, cache_policy=INPUTS)
    assert key(one, 1) == key(one, order=1) == key(one, 1, None) != key(one, 2)
    assert key(one, 1) != key(other, 1)
    assert key(one) == key(one) != key(other), "without arguments too"
    assert key(Task(charge, name="other", cache_policy=INPUTS), 1) != key(one, 1)
    assert key(one.with_options(retries=3), 1) == key(one, 1)


def test_without_a_policy_only_what_has_an_effect_has_a_key() -> None:
    plain = Task(charge)
    assert key(plain, 1) is None
    assert key(plain.with_options(cache_policy=NO_CACHE), 1) is None
    for each in (plain, plain.with_options(cache_policy=NO_CACHE)):
        keys = {key(each, 1, effect=EffectClass.AT_MOST_ONCE) for _ in range(3)}
        assert len(keys) == 3, "each run stands for itself"
    execution = task_run.prepare(dataclasses.replace(plain.spec, effect=EffectClass.IDEMPOTENT), (1,), {}, ())
    assert key_of(execution) == key_of(execution) == key_text(plain.task_key, "run", execution.run.run_id)


def test_the_arguments_count_as_they_are_executed() -> None:
    """The step ``inputs`` puts results in the place of futures."""
    execution = task_run.prepare(Task(charge, cache_policy=INPUTS).spec, ("a future",), {}, ())
    execution.args = (7,)
    assert key_of(execution) == key(Task(charge, cache_policy=INPUTS), 7)


class Till:
    def __init__(self, rate: int, lock: Any = None) -> None:
        self.rate = rate
        self.lock = lock

    @task(cache_policy=INPUTS, name="till's price")
    def price(self, amount: int, **more: Any) -> int:
        return amount * self.rate


def test_the_object_of_a_method_is_an_argument_too() -> None:
    def of(till: Till, *args: Any, **kwargs: Any) -> str | None:
        return key(till.price, till, *args, effect=EffectClass.IDEMPOTENT, **kwargs)

    assert of(Till(2), 1) == of(Till(2), 1) != of(Till(3), 1)
    with pytest.raises(UnkeyableInput, match="argument 'self' holds"):
        of(Till(2, threading.Lock()), 1)
    without = Till.price.with_options(cache_policy=INPUTS - "self" - "trace")
    one, other = Till(2, threading.Lock()), Till(3)
    assert key(without, one, 1, trace="a") == key(without, other, 1, trace="b") != key(without, one, 2)
    assert key(without, one, 1, extra="a") != key(without, one, 1, extra="b")


def test_a_function_of_the_users_makes_the_key() -> None:
    seen: list[Any] = []

    def by_order(context: Any, parameters: dict[str, Any]) -> str | None:
        seen.append((context.task.name, context.task.task_key, context.task_run.id.version, context.parameters))
        return f"order-{parameters['order']}" if parameters["order"] else None

    task = Task(charge, cache_key_fn=by_order)
    assert key(task, 5) == key_text(task.task_key, "args", "order-5")
    assert key(task, 0) is None, "None: not cached"
    assert seen[0] == ("charge", task.task_key, 7, {"order": 5, "session": None})
    hashed = Task(charge, cache_key_fn=task_input_hash)
    assert key(hashed, 1) == key(hashed, 1) != key(hashed, 2)


@pytest.mark.parametrize("policy", [INPUTS, DEFAULT, INPUTS.configure(key_storage="/keys")])
def test_a_pure_task_without_a_key_runs_uncached_with_one_warning(
    policy: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_key, "_warned", set[tuple[str, str]]())
    task = Task(charge, cache_policy=policy)
    with caplog.at_level(logging.WARNING):
        assert [key(task, 1, threading.Lock()) for _ in range(3)] == [None] * 3
    (record,) = caplog.records
    assert record.message.startswith("Task charge runs uncached: the argument 'session' holds _thread.lock, whose")
    assert '(- "session"), make the key yourself (cache_key_fn=...)' in record.message
    assert key(task.with_options(cache_policy=policy - "session"), 1, threading.Lock()) is not None


@pytest.mark.parametrize("effect", [EffectClass.IDEMPOTENT, EffectClass.AT_MOST_ONCE, EffectClass.TRANSACTIONAL])
def test_a_task_with_an_effect_never_runs_without_a_key(effect: EffectClass) -> None:
    def broken(context: Any, parameters: dict[str, Any]) -> str:
        raise LookupError("no such order")

    with pytest.raises(UnkeyableInput, match="task charge: the argument 'session' holds"):
        key(Task(charge, cache_policy=INPUTS), 1, threading.Lock(), effect=effect)
    with pytest.raises(ConfigurationError, match=r"task charge: CacheKeyFnPolicy.*broken.* LookupError: no such order"):
        key(Task(charge, cache_key_fn=broken), 1, effect=effect)
    for policy in (FLOW_PARAMETERS, INPUTS.from_cache_key_fn(lambda context, parameters: None)):
        with pytest.raises(ConfigurationError, match="gives no key for this call"):
            key(Task(charge, cache_policy=policy), 1, effect=effect)
    for wrong in (5, "", b"x"):
        with pytest.raises(ConfigurationError, match="as a key; give a text, or None"):
            key(Task(charge, cache_key_fn=lambda context, parameters, wrong=wrong: wrong), 1, effect=effect)  # pyright: ignore
    assert key(Task(charge, cache_policy=RUN_ID), 1, effect=effect) != key(Task(charge, cache_policy=RUN_ID), 1)


def test_caching_can_be_switched_off_but_protection_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(charge, cache_policy=INPUTS)
    assert (task.refresh_cache, key(task, 1)) == (False, key_text(task.task_key, "args", str(value_of_inputs(order=1))))
    settings.use(None)
    monkeypatch.setenv("PREFECT_TASKS_REFRESH_CACHE", "true")
    monkeypatch.setenv("KAPSTAN_DISABLE_CACHING", "true")
    assert (Task(charge).refresh_cache, Task(charge, refresh_cache=False).refresh_cache) == (True, False)
    assert key(task, 1) is None
    assert key(task, 1, effect=EffectClass.AT_MOST_ONCE) is not None
    payment = Task(charge, exactly_once=True)
    assert not payment.refresh_cache, "no switch of a whole program has an effect repeated"
    assert not payment.with_options(effect="idempotent").refresh_cache
    assert Task(charge, effect="idempotent", refresh_cache=True).refresh_cache
    assert Task(charge).with_options(exactly_once=True).refresh_cache is False


def value_of_inputs(order: int) -> str | None:
    return INPUTS.compute_key(None, {"order": order, "session": None}, None)
