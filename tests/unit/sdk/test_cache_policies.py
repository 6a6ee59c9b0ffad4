"""Cache policies as values: sums, what is left out, settings, copies; and the keys that they make."""

from __future__ import annotations

import copy
import dataclasses
import enum
import logging
import pickle
import threading
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kapstan import Task, cache_policies, flow, pickling
from kapstan.cache_policies import (
    DEFAULT,
    FLOW_PARAMETERS,
    INPUTS,
    NO_CACHE,
    NONE,
    RUN_ID,
    TASK_SOURCE,
    CacheKeyFnPolicy,
    CachePolicy,
    CompoundCachePolicy,
    Inputs,
)
from kapstan.context import TaskRun, TaskRunContext
from kapstan.errors import CachePolicyConflict, ConfigurationError, UnkeyableInput
from kapstan.ids import new_id
from kapstan.states import EffectClass


class Level(enum.Enum):
    SERIALIZABLE = "SERIALIZABLE"


@dataclass(frozen=True)
class Locks:
    """As far as a policy looks at a lock manager."""

    host: str = "redis"

    def acquire_lock(self, key: str, holder: str) -> bool:
        return True

    def release_lock(self, key: str, holder: str) -> None: ...


@dataclass
class ByDay(CachePolicy):
    day: str = "monday"

    def compute_key(self, task_ctx: Any, inputs: Any, flow_parameters: Any, **kwargs: Any) -> str | None:
        return f"{self.day}-{inputs['a']}"


class ByRegion(CachePolicy):
    """As users write one: no dataclass, and no call of the base."""

    def __init__(self, region: str) -> None:
        self.region = region

    def compute_key(self, task_ctx: Any, inputs: Any, flow_parameters: Any) -> str | None:  # pyright: ignore
        return self.region


def key_of(context: Any, parameters: dict[str, Any]) -> str:
    return f"{context.task.name}-{parameters['a']}"


def plus(a: int, b: Any = 1, **more: Any) -> int:
    return a


def context_of(task: Any = None, flow_run_id: str | None = None, **parameters: Any) -> TaskRunContext:
    task = task or Task(plus)
    return TaskRunContext(task, TaskRun(new_id(), task.name, 1, parameters, flow_run_id=flow_run_id), parameters)


def key(policy: CachePolicy, flow: dict[str, Any] | None = None, **inputs: Any) -> str | None:
    return policy.compute_key(context_of(**inputs), inputs, flow)


def test_inputs() -> None:
    assert key(INPUTS, a=1, b=2) == key(INPUTS, b=2, a=1)
    assert len({key(INPUTS), key(INPUTS, a=1), key(INPUTS, a=1.0), key(INPUTS, a="1"), key(INPUTS, b=1)}) == 5
    assert INPUTS.compute_key(None, {"a": 1}, None) == key(INPUTS, a=1), "without a context, as Prefect's is called"
    assert len(str(key(INPUTS, a=1))) == len("inputs-") + 64, "the whole hash: no two inputs by chance"


def test_arguments_are_left_out_by_name() -> None:
    policy = INPUTS - "b"
    assert key(policy, a=1, b=2) == key(policy, a=1, b=3) == key(policy, a=1)
    assert key(policy, a=1) != key(policy, a=2)
    assert key(policy - "a", a=1, b=1) == key(INPUTS)
    assert policy == INPUTS - "b" - "b" != INPUTS
    assert key(INPUTS - "x", a=1, more={"x": 1, "y": 2}) == key(INPUTS, a=1, more={"y": 2}), "those of **more, too"
    assert key(INPUTS - "x", a={"x": 1}) != key(INPUTS - "x", a={"x": 2}), "but not what is inside of an argument"
    assert key(DEFAULT - "b" - "a", a=1, b=1) != key(DEFAULT, a=1, b=1)
    assert (RUN_ID - "b", TASK_SOURCE - "b", NO_CACHE - "b") == (RUN_ID, TASK_SOURCE, NO_CACHE)


@pytest.mark.parametrize("policy", [INPUTS, RUN_ID, DEFAULT, NO_CACHE, ByDay()])
@pytest.mark.parametrize("name", [1, None, ["b"]])
def test_only_a_text_can_be_left_out(policy: CachePolicy, name: Any) -> None:
    with pytest.raises(TypeError, match="only the name of an argument, a text"):
        _ = policy - name


def test_run_id_and_flow_parameters() -> None:
    run = RUN_ID.compute_key
    one, other = new_id(), new_id()
    assert run(context_of(flow_run_id=one), {}, None) == run(context_of(flow_run_id=one), {"a": 1}, None)
    assert run(context_of(flow_run_id=one), {}, None) != run(context_of(flow_run_id=other), {}, None)
    assert run(context_of(), {}, None) != run(context_of(), {}, None), "outside of a flow each run has its own"
    assert key(FLOW_PARAMETERS, {"n": 1}, a=1) == key(FLOW_PARAMETERS, {"n": 1}, a=2) != key(FLOW_PARAMETERS, {"n": 2})
    assert key(FLOW_PARAMETERS, None, a=1) is None
    assert key(FLOW_PARAMETERS, {}) is not None, "a flow without parameters is a flow"


def test_a_sum_holds_all_keys_in_any_order() -> None:
    assert key(INPUTS + FLOW_PARAMETERS, {"n": 1}, a=1) == key(FLOW_PARAMETERS + INPUTS, {"n": 1}, a=1)
    keys = [key(INPUTS + FLOW_PARAMETERS, {"n": n}, a=a) for n in (1, 2) for a in (1, 2)]
    assert len(set(keys)) == 4
    assert key(INPUTS + FLOW_PARAMETERS, a=1) == key(FLOW_PARAMETERS + INPUTS + NONE, a=1), "None is left out"
    assert key(FLOW_PARAMETERS + FLOW_PARAMETERS) is None
    assert (INPUTS + RUN_ID) + ByDay() == INPUTS + (ByDay() + RUN_ID)
    assert INPUTS + RUN_ID != INPUTS + TASK_SOURCE
    assert repr(INPUTS - "b" + RUN_ID) == "(INPUTS - 'b' + RUN_ID)"
    with pytest.raises(TypeError):
        INPUTS + "b"  # pyright: ignore


def test_nothing_is_the_neutral_policy() -> None:
    assert NONE == NO_CACHE
    assert INPUTS + NO_CACHE == NO_CACHE + INPUTS == INPUTS
    assert (NO_CACHE + NO_CACHE, key(NO_CACHE, a=1)) == (NO_CACHE, None)
    assert (INPUTS + NO_CACHE.configure(lock_manager=Locks())).lock_manager == Locks()


def test_settings_are_kept_by_every_operation() -> None:
    base = INPUTS.configure(key_storage=Path("/keys"), lock_manager=Locks(), isolation_level="SERIALIZABLE")
    for policy in (base, base - "b", base + RUN_ID, RUN_ID + base, base + NO_CACHE, base.configure(), base + base):
        assert (policy.key_storage, policy.lock_manager) == ("/keys", Locks())
        assert policy.isolation_level == "SERIALIZABLE"
    assert (INPUTS.key_storage, INPUTS.lock_manager, INPUTS.isolation_level) == (None, None, None)
    assert base == INPUTS.configure(Path("/keys"), Locks(), Level.SERIALIZABLE) != INPUTS  # pyright: ignore
    assert key(base, a=1) == key(INPUTS, a=1), "settings are no part of the key"
    assert base.configure(key_storage="s3://keys").key_storage == "s3://keys"
    assert CachePolicy(lock_manager=Locks()).lock_manager == ByDay(lock_manager=Locks()).lock_manager == Locks()
    assert ByRegion("eu").configure(lock_manager=Locks()).lock_manager == Locks()


@pytest.mark.parametrize(
    ("setting", "one", "other"),
    [
        ("key_storage", "/a", "/b"),
        ("lock_manager", Locks("a"), Locks("b")),
        ("isolation_level", "SERIALIZABLE", "READ_COMMITTED"),
    ],
)
def test_policies_of_different_settings_cannot_be_added(setting: str, one: Any, other: Any) -> None:
    left, right = INPUTS.configure(**{setting: one}), RUN_ID.configure(**{setting: other})
    for make in (
        lambda: left + right,
        lambda: CompoundCachePolicy([left, right]),
        lambda: (left + TASK_SOURCE) + right,
    ):
        with pytest.raises(CachePolicyConflict, match=f"different {setting}s") as raised:
            make()
        assert isinstance(raised.value, (ConfigurationError, ValueError))
    assert left + RUN_ID.configure(**{setting: one}) == left + RUN_ID


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("isolation_level", value) for value in ("serializable", 5, ["SERIALIZABLE"])),
        *(("lock_manager", value) for value in ("redis", Locks, 5)),
        *(("key_storage", value) for value in (5, b"/keys", "", ["/keys"], True)),
    ],
)
def test_a_setting_that_cannot_be_is_named(setting: str, value: Any) -> None:
    for make in (INPUTS.configure, ByDay, CachePolicy):
        with pytest.raises(ConfigurationError) as raised:
            make(**{setting: value})
        assert str(raised.value).startswith(f"{setting}={value!r}: give ")


@pytest.mark.parametrize(
    ("made", "error", "said"),
    [
        (lambda: CompoundCachePolicy([INPUTS, 5]), ConfigurationError, "5 is no cache policy"),  # type: ignore[list-item]
        (lambda: CacheKeyFnPolicy("order"), ConfigurationError, "cache_key_fn='order': give a function"),  # type: ignore[arg-type]
        (lambda: Inputs(exclude="session"), TypeError, "exclude='session': give a list of names"),
    ],
)
def test_a_policy_of_what_cannot_be_is_refused(made: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        made()


def test_serializable_needs_a_lock_manager() -> None:
    policy = INPUTS.configure(isolation_level="SERIALIZABLE")
    with pytest.raises(ConfigurationError, match=r"cache_policy=.*SERIALIZABLE needs .* give lock_manager="):
        Task(plus, cache_policy=policy)
    with pytest.raises(ConfigurationError, match="give lock_manager="):
        Task(plus).with_options(cache_policy=policy + RUN_ID)
    assert Task(plus, cache_policy=policy.configure(lock_manager=Locks())).cache_policy.lock_manager == Locks()


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


COPIES: list[Any] = [pickled, copy.deepcopy, copy.copy]


@pytest.mark.parametrize("copied", COPIES)
def test_copies_are_equal_and_make_the_same_keys(copied: Any) -> None:
    every = [
        INPUTS,
        INPUTS - "b",
        RUN_ID,
        TASK_SOURCE,
        FLOW_PARAMETERS,
        NO_CACHE,
        DEFAULT,
        ByDay("friday"),
        ByRegion("x"),
    ]
    every += [CacheKeyFnPolicy(key_of), (DEFAULT - "b").configure(lock_manager=Locks(), key_storage="/k")]
    for policy in every:
        assert copied(policy) == policy
    for index, policy in enumerate(every):
        assert [other for other in every if other == policy] == [every[index]]
    assert ByDay("friday") != ByDay("monday")
    assert ByRegion("x") != ByRegion("y")
    context = context_of(a=1, b=2)
    for policy in every:
        assert policy.compute_key(context, {"a": 1}, {}) == copied(policy).compute_key(context, {"a": 1}, {})
    assert pickling.loads(pickling.dumps(Task(plus, cache_policy=DEFAULT))).cache_policy == DEFAULT


def test_what_cannot_be_told_is_an_error_that_names_task_argument_type_and_the_way_out() -> None:
    context = context_of(Task(plus, name="charge"))
    for policy in (INPUTS, INPUTS + RUN_ID):
        with pytest.raises(UnkeyableInput) as raised:
            policy.compute_key(context, {"a": 1, "b": [threading.Lock()]}, None)
        assert str(raised.value) == (
            "task charge: the argument 'b' holds _thread.lock, whose content no key can tell: leave it out of the "
            'cache policy (- "b"), make the key yourself (cache_key_fn=...), or pass what it is made from'
        )
        assert (policy - "b").compute_key(context, {"a": 1, "b": [threading.Lock()]}, None)
    with pytest.raises(UnkeyableInput, match="the flow parameter 'lock' holds"):
        FLOW_PARAMETERS.compute_key(context, {}, {"lock": threading.Lock()})


# ---------------------------------------------------------------------------------------------- options


def test_a_function_makes_the_keys(caplog: pytest.LogCaptureFixture) -> None:
    keyed = Task(plus, cache_key_fn=key_of)
    assert keyed.cache_policy == CacheKeyFnPolicy(key_of) == CachePolicy.from_cache_key_fn(key_of)
    assert keyed.cache_policy.compute_key(context_of(keyed), {"a": 7}, None) == "plus-7"
    assert caplog.records == []
    both = keyed.with_options(cache_policy=INPUTS.configure(lock_manager=Locks()))
    assert [record.message for record in caplog.records] == [
        "Task plus has both cache_policy and cache_key_fn: the function makes its keys"
    ]
    assert both.cache_policy == CacheKeyFnPolicy(key_of).configure(lock_manager=Locks())
    assert both.with_options(cache_key_fn=None).cache_policy == INPUTS.configure(lock_manager=Locks())
    with pytest.raises(ConfigurationError, match="this one has too many positional arguments"):
        Task(plus, cache_key_fn=lambda parameters: "x")  # pyright: ignore


def test_without_a_result_there_is_no_cache(caplog: pytest.LogCaptureFixture) -> None:
    assert Task(plus, persist_result=False).cache_policy is None
    with caplog.at_level(logging.WARNING):
        assert Task(plus, persist_result=False, cache_policy=DEFAULT).cache_policy == NO_CACHE
    assert "its cache policy is not used" in caplog.text
    with pytest.raises(ConfigurationError, match="task plus: persist_result=False keeps no result"):
        Task(plus, persist_result=False, cache_policy=INPUTS.configure(lock_manager=Locks()))


def test_an_expiration_is_a_timedelta() -> None:
    assert Task(plus, cache_expiration=90).cache_expiration == timedelta(seconds=90)
    assert Task(plus, cache_expiration=timedelta(days=1)).cache_expiration == timedelta(days=1)


def test_the_public_names_are_there() -> None:
    assert all(hasattr(cache_policies, name) for name in cache_policies.__all__)


def test_an_argument_that_is_left_out_may_be_anything_in_a_flow_too() -> None:
    """The memo key of the call need not tell it: the key of its policy says whether it was done."""
    kept = Task(plus, name="kept apart", cache_policy=INPUTS - "b")
    kept.spec = dataclasses.replace(kept.spec, effect=EffectClass.AT_MOST_ONCE)
    plain = Task(plus, name="told by all")
    plain.spec = dataclasses.replace(plain.spec, effect=EffectClass.AT_MOST_ONCE)

    @flow
    def pays_with_a_session() -> int:
        with pytest.raises(UnkeyableInput, match="argument 'b' holds"):
            plain(1, threading.Lock())
        return kept(5, threading.Lock())

    assert pays_with_a_session() == 5
