"""The options of ``@task`` and ``@flow``: their checks, attributes, changed copies, pickles, and retry conditions."""

from __future__ import annotations

import copy
import inspect
import logging
import math
import pickle
from dataclasses import fields
from datetime import timedelta
from typing import Any

import cloudpickle  # pyright: ignore[reportMissingTypeStubs]
import pytest

from kapstan import Flow, Task, exponential_backoff, flow, settings, task
from kapstan.cache_policies import INPUTS, CachePolicy
from kapstan.durability import Durability
from kapstan.engine.options import FlowOptions, TaskOptions
from kapstan.errors import ConfigurationError
from kapstan.run_limits import RateLimit
from kapstan.serializers import CompressedSerializer, PickleSerializer
from kapstan.specs import FlowPolicy, TaskPolicy
from kapstan.states import EffectClass, State
from kapstan.task_runners import ThreadPoolTaskRunner


@task
def add(a: int, b: int = 1) -> int:
    """Adds."""
    return a + b


@flow
def total(a: int) -> int:
    """Sums up."""
    return add(a)


class Shop:
    def __init__(self, rate: int) -> None:
        self.rate = rate

    @task
    def price(self, amount: int) -> int:
        return self.rate * amount

    @task
    @classmethod
    def title(cls, prefix: str) -> str:
        return prefix + cls.__name__


def length(text: str) -> int:
    return len(text)


def condition(task: Any, run: Any, state: State) -> bool:
    return True


def key_of(context: Any, parameters: dict[str, Any]) -> str:
    return str(parameters["a"])


def told_of(transaction: Any) -> None:
    """A hook."""


def applied(key: str) -> bool:
    return False


GIVEN_TO_TASK: dict[str, tuple[Any, Any]] = {
    "name": ("pay", "pay"),
    "description": ("Pays.", "Pays."),
    "tags": (["a", "b"], {"a", "b"}),
    "version": ("2", "2"),
    "retries": (3, 3),
    "retry_delay_seconds": ([1, 2], (1.0, 2.0)),
    "retry_jitter_factor": (1, 1.0),
    "retry_condition_fn": (condition, condition),
    "timeout_seconds": (5, 5.0),
    "log_prints": (True, True),
    "persist_result": (False, False),
    "queue": ("slow", "slow"),
    "priority": (7, 7),
    "group": ("{a}", "{a}"),
    "concurrency_limit": (5, 5),
    "rate_limit": ("100/m", RateLimit(100, 60)),
    "group_concurrency_limit": (2, 2),
    "group_rate_limit": ("5 per hour", RateLimit(5, 3600)),
    "result_storage": ("/results", "file:///results"),
    "result_storage_key": ("sum-{parameters[a]}", "sum-{parameters[a]}"),
    "result_serializer": ("compressed/json", CompressedSerializer("json")),
    "task_run_name": ("pay-{a}", "pay-{a}"),
    "cache_policy": (INPUTS - "b", INPUTS - "b"),
    "cache_key_fn": (key_of, key_of),
    "cache_expiration": (60, timedelta(minutes=1)),
    "refresh_cache": (True, True),
    "cache_result_in_memory": (False, False),
    "on_commit": (told_of, (told_of,)),
    "on_rollback": ([told_of], (told_of,)),
    "effect": ("at_most_once", EffectClass.AT_MOST_ONCE),
    "exactly_once": (True, True),
    "probe": (applied, applied),
    "effect_horizon": (5, 5.0),
    "key_retention": (3600, 3600.0),
    "expires": (timedelta(minutes=1), 60.0),
    "durability": ("aof", Durability.AOF),
}
"""What is given and what is then read."""

RUNNER = ThreadPoolTaskRunner(max_workers=3)
GIVEN_TO_FLOW: dict[str, tuple[Any, Any]] = {
    "name": ("etl", "etl"),
    "description": ("Loads.", "Loads."),
    "tags": (["nightly"], frozenset({"nightly"})),
    "version": ("2", "2"),
    "flow_run_name": ("etl-{a}", "etl-{a}"),
    "retries": (3, 3),
    "retry_delay_seconds": (1, 1.0),
    "task_runner": (RUNNER, RUNNER),
    "timeout_seconds": (5, 5.0),
    "validate_parameters": (False, False),
    "persist_result": (False, False),
    "result_storage": ("s3://bucket/a/b/", "s3://bucket/a/b"),
    "result_serializer": (PickleSerializer, PickleSerializer()),
    "log_prints": (True, True),
}
SHOWN = {"on_commit": "on_commit_hooks", "on_rollback": "on_rollback_hooks"}
"""Attributes of another name: these are decorators, too."""
EVERY = [
    *((Task, add, option, *given) for option, given in GIVEN_TO_TASK.items()),
    *((Flow, total, option, *given) for option, given in GIVEN_TO_FLOW.items()),
]


def test_the_tables_of_this_file_have_every_option() -> None:
    assert list(GIVEN_TO_TASK) == list(TaskOptions.__annotations__)
    assert list(GIVEN_TO_FLOW) == list(FlowOptions.__annotations__)


def test_what_the_engine_reads_has_the_options_names() -> None:
    assert ["name", *(field.name for field in fields(TaskPolicy))] == list(TaskOptions.__annotations__)
    assert ["name", *(field.name for field in fields(FlowPolicy))] == list(FlowOptions.__annotations__)


@pytest.mark.parametrize(("kind", "decorated", "option", "given", "read"), EVERY)
def test_an_option_is_an_attribute_and_can_be_changed_and_reset(
    kind: Any, decorated: Any, option: str, given: Any, read: Any
) -> None:
    shown = SHOWN.get(option, option)
    made = kind(decorated.fn, **{option: given})
    assert getattr(made, shown) == getattr(made.spec, option) == read
    default = getattr(decorated, shown)
    assert default != read
    changed = decorated.with_options(**{option: given})
    assert getattr(changed, shown) == read
    assert getattr(changed.with_options(description="other"), shown) == (read if option != "description" else "other")
    assert getattr(changed.with_options(**{option: None}), shown) == default
    assert getattr(decorated, shown) == default
    assert option in dir(made)


def test_names_that_prefect_users_know() -> None:
    assert (add.task_key, add.isasync, add.name, add.fn(1)) == (f"{__name__}:add", False, "add", 2)
    assert (total.should_validate_parameters, total.isasync, total.name) == (True, False, "total")
    assert (add.__doc__, add.__name__, total.__name__) == ("Adds.", "add", "total")
    with pytest.raises(AttributeError, match="Task has no attribute 'retrys'"):
        _ = add.retrys  # pyright: ignore


POLICY = "give a policy of kapstan.cache_policies, such as INPUTS"
KEY_FN = "give a function of (context, parameters) that returns a text"
SPAN = "give a timedelta or a number of seconds, above 0"
NO_SPAN = [math.inf, math.nan, 1e300, timedelta(0), timedelta(days=-1)]


async def akey(context: Any, parameters: dict[str, Any]) -> str:
    return ""


EFFECT = "give one of pure, idempotent, at_most_once, transactional"
LEVELS = f"give one of {', '.join(Durability)}"
PROBE = "give a function of the idempotency key that says whether the effect happened"
NO_NUMBER = [math.inf, -math.inf, math.nan, -1, "5", True, timedelta(seconds=1)]


@pytest.mark.parametrize(
    ("kind", "option", "value", "wanted"),
    [
        *((Task, "timeout_seconds", value, "give a number from 0 on") for value in NO_NUMBER),
        *((Flow, "timeout_seconds", value, "give a number from 0 on") for value in NO_NUMBER),
        *((Task, "retry_delay_seconds", value, "give a number from 0 on") for value in NO_NUMBER),
        *((Task, "retry_jitter_factor", value, "give a number from 0 on") for value in NO_NUMBER),
        *((Task, "retries", value, "give a whole number from 0 to 998") for value in (-1, 1.5, True, "3", 999)),
        *((Flow, "retries", value, "give a whole number from 0 to 998") for value in (-1, 1.5, True, "3", 999)),
        (Task, "tags", "single", "give a list of texts, such as ['single']"),
        (Task, "tags", 5, "give a list of texts"),
        (Task, "name", 5, "give a text"),
        (Task, "name", "a\ud800", "half a character (a lone surrogate) is no text"),
        (Task, "description", ["x"], "give a text"),
        (Flow, "version", 2, "give a text"),
        (Task, "log_prints", "yes", "give True or False"),
        (Task, "persist_result", 1, "give True or False"),
        (Flow, "validate_parameters", "no", "give True or False"),
        (Task, "retry_condition_fn", "always", "give a function of (task, task_run, state)"),
        (Task, "task_run_name", 5, "give a template, such as 'charge-{user}', or a function"),
        *((Task, "effect", value, EFFECT) for value in ("once", 5, "")),
        (Task, "exactly_once", "yes", "give True or False"),
        *((Task, "probe", value, PROBE) for value in ("asks", 5)),
        *((Task, "effect_horizon", value, "give a number from 0 on") for value in (-1, math.inf, "5")),
        *((Task, "key_retention", value, "give a number from 0 on") for value in (-1, math.nan, True)),
        *((Task, "durability", value, LEVELS) for value in ("disk", "AOF", 5, True, ["aof"])),
        (Flow, "flow_run_name", ["x"], "give a template, such as 'charge-{user}', or a function"),
        *((Task, "cache_policy", value, POLICY) for value in ("inputs", 5, CachePolicy)),
        *((Task, "cache_key_fn", value, KEY_FN) for value in ("key", 5, akey)),
        *((Task, "cache_expiration", value, SPAN) for value in (0, -1, True, "1h", *NO_SPAN)),
        (Task, "refresh_cache", "yes", "give True or False"),
        (Task, "cache_result_in_memory", 0, "give True or False"),
        (Flow, "task_runner", 4, "give a ThreadPoolTaskRunner(max_workers=...)"),
        (Flow, "task_runner", ThreadPoolTaskRunner, "give a ThreadPoolTaskRunner(max_workers=...)"),
    ],
)
def test_a_wrong_option_is_named_with_its_value_and_what_fits(kind: Any, option: str, value: Any, wanted: str) -> None:
    for make in (lambda **options: kind(length, **options), (add if kind is Task else total).with_options):
        with pytest.raises(ConfigurationError) as raised:
            make(**{option: value})
        assert str(raised.value) == f"{option}={value!r}: {wanted}"


def test_a_template_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"task_run_name='a-\{b' is not a template: expected '}' before end"):
        Task(length, task_run_name="a-{b")


@pytest.mark.parametrize("listed", [["x"], [1, -1], {"a": 1}])
def test_each_delay_is_checked(listed: Any) -> None:
    with pytest.raises(ConfigurationError, match="retry_delay_seconds="):
        Task(length, retries=1, retry_delay_seconds=listed)
    with pytest.raises(ConfigurationError, match="retry_delay_seconds="):
        Task(length, retries=1, retry_delay_seconds=lambda retries: listed)


def test_a_limit_of_zero_is_no_limit() -> None:
    assert Task(length, timeout_seconds=0).timeout_seconds is None
    assert add.with_options(timeout_seconds=3).with_options(timeout_seconds=0).timeout_seconds is None
    assert Flow(length, timeout_seconds=0.0).timeout_seconds is None


def test_delays_that_a_function_makes_follow_the_number_of_retries() -> None:
    backing_off = Task(length, retries=2, retry_delay_seconds=exponential_backoff(10))
    assert backing_off.retry_delay_seconds == (10, 20)
    assert backing_off.with_options(retries=3).retry_delay_seconds == (10, 20, 40)
    generated = Task(length, retries=2, retry_delay_seconds=lambda retries: (i + 1 for i in range(retries)))
    assert generated.retry_delay_seconds == (1, 2)


def test_a_changed_task_keeps_its_identity_unless_it_is_named() -> None:
    assert add.with_options(retries=1).task_key == f"{__name__}:add"
    assert add.with_options(name="plus").task_key == "plus"
    assert Task(length, name="size").with_options(retries=1).task_key == "size"


def test_a_default_of_the_environment_is_read_without_fixing_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script may call ``load_dotenv()`` after its first ``@task``."""
    settings.use(None)
    monkeypatch.setenv("PREFECT_TASKS_DEFAULT_RETRIES", "4")
    assert Task(length).retries == 4
    monkeypatch.setenv("KAPSTAN_DEFAULT_RETRIES", "2")
    assert (Task(length).retries, Task(length, retries=0).retries) == (2, 0)
    monkeypatch.setenv("KAPSTAN_NAMESPACE", "from-dotenv")
    assert settings.current().namespace == "from-dotenv"
    monkeypatch.setenv("KAPSTAN_DEFAULT_RETRIES", "many")
    settings.use(None)
    with pytest.raises(ConfigurationError, match="KAPSTAN_DEFAULT_RETRIES='many': give a whole number"):
        Task(length)


# ---------------------------------------------------------------------------------------------- copies

COPIES: list[Any] = [
    lambda value: pickle.loads(pickle.dumps(value)),
    lambda value: cloudpickle.loads(cloudpickle.dumps(value)),
    copy.deepcopy,
]


@pytest.mark.parametrize("copied", COPIES, ids=["pickle", "cloudpickle", "deepcopy"])
def test_a_copy_keeps_options_identity_and_what_it_is_bound_to(copied: Any) -> None:
    assert copied(add) is add
    assert copied(total) is total
    changed = copied(add.with_options(retries=3, tags=["x"], timeout_seconds=4))
    assert (changed.retries, changed.tags, changed.timeout_seconds) == (3, {"x"}, 4)
    assert (changed.task_key, changed.name, changed(1)) == (add.task_key, "add", 2)
    assert copied(total.with_options(retries=3, name="sum")).retries == 3
    assert copied(total.with_options(retries=3, name="sum")).name == "sum"
    assert copied(Task(length, name="size", retries=2)).retries == 2
    assert copied(Shop(3).price)(2) == 6
    price = copied(Shop(3).price.with_options(retries=3))
    assert (price(2), price.retries) == (6, 3)
    assert copied(Shop.title)("a ") == "a Shop"
    title = copied(Shop.title.with_options(retries=3))
    assert (title("a "), title.retries) == ("a Shop", 3)


def test_a_local_function_is_copied_with_its_options() -> None:
    word = "hello"

    @task(name="greet", retries=2)
    def greet() -> str:
        return word

    greeting = cloudpickle.loads(cloudpickle.dumps(greet))
    assert (greeting.retries, greeting.task_key, greeting()) == (2, "greet", "hello")


# ---------------------------------------------------------------------------------------------- retry conditions


def executed(**options: Any) -> int:
    """How often a task of these options that always raises ValueError is executed."""
    count = 0

    def fail() -> None:
        nonlocal count
        count += 1
        raise ValueError("temporary")

    with pytest.raises(ValueError, match="temporary"):
        Task(fail, name="fail", retries=2, **options)()
    return count


def test_a_condition_reads_task_run_and_state() -> None:
    seen: list[Any] = []

    def only_value_errors(task: Task[..., Any], run: Any, state: State) -> bool:
        seen.append((task.name, task.retries, task.tags, run.run_count, state.type.name))
        try:
            state.result()
        except ValueError:
            return run.run_count <= task.retries
        return False

    assert executed(retry_condition_fn=only_value_errors, tags=["x"]) == 3
    assert seen == [("fail", 2, {"x"}, 1, "FAILED"), ("fail", 2, {"x"}, 2, "FAILED")]


def test_a_changed_task_gives_its_condition_itself() -> None:
    seen: list[int] = []

    def note(task: Task[..., Any], run: Any, state: State) -> bool:
        seen.append(task.retries)
        return True

    def fail() -> None:
        raise ValueError("temporary")

    with pytest.raises(ValueError, match="temporary"):
        Task(fail, name="fail", retries=0, retry_condition_fn=note).with_options(retries=1)()
    assert seen == [1]


@pytest.mark.parametrize("answer", [True, False])
def test_an_async_condition_is_awaited(answer: bool) -> None:
    async def ask(task: Any, run: Any, state: State) -> bool:
        assert inspect.isawaitable(state) is False
        return answer

    assert executed(retry_condition_fn=ask) == (3 if answer else 1)


def test_an_error_in_a_condition_is_logged_and_means_no(caplog: pytest.LogCaptureFixture) -> None:
    def broken(task: Any, run: Any, state: State) -> bool:
        return task.retrys > 0

    async def abroken(task: Any, run: Any, state: State) -> bool:
        return broken(task, run, state)

    for condition in (broken, abroken):
        caplog.clear()
        with caplog.at_level(logging.ERROR, "kapstan.task_runs"):
            assert executed(retry_condition_fn=condition) == 1
        lines = [record for record in caplog.records if "retry_condition_fn of task fail raised" in record.message]
        assert len(lines) == 1
        assert lines[0].exc_info
        assert "no attribute 'retrys'" in str(lines[0].exc_info[1])
