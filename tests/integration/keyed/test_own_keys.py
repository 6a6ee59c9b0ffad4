"""Keys that users make themselves: a task with an effect tells apart requests that would share one by mistake."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kapstan import backend as backends
from kapstan.cache_policies import INPUTS, TASK_SOURCE, CacheKeyFnPolicy
from kapstan.engine import task_run
from kapstan.engine.cache_key import inputs_of
from kapstan.engine.keyed import BEGUN, KeyedRun
from kapstan.errors import KeyConflict
from kapstan.ids import to_uuid
from kapstan.ports.register import RegisterKey
from kapstan.settings import Settings
from kapstan.states import Failed
from kapstan.tasks import Task

ran: list[Any] = []


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    ran.clear()
    yield
    backends.use(None)


def pay(order: str, amount: int, trace: Any = None) -> int:
    ran.append((order, amount))
    if amount < 0:
        raise ValueError(amount)
    return amount


def by_order(context: Any, parameters: dict[str, Any]) -> str:
    return parameters["order"]


OWN: list[dict[str, Any]] = [{"result_storage_key": "order-{parameters[order]}"}, {"cache_key_fn": by_order}]
KEYS = pytest.mark.parametrize("keyed", OWN, ids=["result_storage_key", "cache_key_fn"])


def paying(name: str, effect: str = "at_most_once", **options: Any) -> Task[..., Any]:
    return Task(pay, name=f"own-{name}-{'-'.join(options)}", effect=effect, **options)


def holder(subject: Task[..., Any]) -> str:
    register = backends.current().register
    (key,) = [key for key in register.all_keys() if key.task == subject.spec.identity]
    entry = register.read(key)
    assert entry is not None
    assert entry.record.holder is not None
    return str(to_uuid(entry.record.holder.run_id))


@KEYS
@pytest.mark.parametrize("effect", ["at_most_once", "idempotent"])
def test_other_arguments_under_the_key_are_an_error(setting: Settings, keyed: dict[str, Any], effect: str) -> None:
    subject = paying(effect, effect, **keyed)
    assert subject("a", 5) == 5
    with pytest.raises(KeyConflict, match="amount: 5 -> 6") as raised:
        subject("a", 6)
    first, second = re.findall(r"run ([0-9a-f-]{36})", str(raised.value))
    assert first == holder(subject)
    assert second != first
    assert subject("a", 5) == 5
    assert ran == [("a", 5)]


@KEYS
def test_what_was_not_done_leaves_the_key_to_other_arguments(setting: Settings, keyed: dict[str, Any]) -> None:
    subject = paying("undone", **keyed)
    with pytest.raises(ValueError, match="-1"):
        subject("a", -1)
    assert subject("a", 5) == 5
    assert ran == [("a", -1), ("a", 5)]


def test_an_argument_that_does_not_matter_is_left_out(setting: Settings) -> None:
    subject = paying("traced", cache_policy=CacheKeyFnPolicy(by_order) - "trace")
    assert [subject("a", 5, trace) for trace in (1, 2)] == [5, 5]
    with pytest.raises(KeyConflict, match="amount: 5 -> 6"):
        subject("a", 6, 1)


def test_a_policy_that_looks_at_arguments_says_which_matter(setting: Settings) -> None:
    subject = paying("looks", cache_policy=INPUTS - "trace" - "amount")
    assert [subject("a", amount, amount) for amount in (5, 6)] == [5, 5]


def test_a_policy_that_looks_at_no_argument_gives_no_request_the_result_of_another(setting: Settings) -> None:
    subject = paying("source", cache_policy=TASK_SOURCE)
    assert subject("a", 5) == 5
    with pytest.raises(KeyConflict, match="order: 'a' -> 'b'"):
        subject("b", 5)


def test_an_argument_of_which_no_key_can_be_made_is_not_compared(setting: Settings) -> None:
    subject = paying("locks", cache_key_fn=by_order)
    assert [subject("a", 5, threading.Lock()) for _ in range(2)] == [5, 5]
    assert ran == [("a", 5)]


@KEYS
def test_a_cache_takes_the_key_at_its_word(setting: Settings, keyed: dict[str, Any]) -> None:
    subject = paying("pure", "pure", **keyed)
    assert subject("a", 5) == 5
    assert subject("a", 6) == (5 if "cache_key_fn" in keyed else 6)


def test_who_waits_does_not_take_the_failure_of_other_arguments(setting: Settings) -> None:
    subject = paying("waits", cache_key_fn=by_order)

    def at(amount: int) -> KeyedRun:
        execution = task_run.prepare(subject.spec, ("a", amount), {}, ())
        return KeyedRun(
            execution, backends.current(), RegisterKey(subject.spec.identity, "w" * 52), inputs_of(execution)
        )

    holds, waits, other = at(5), at(5), at(6)
    assert holds.look() is BEGUN
    waits.look()
    holds.release(None)
    assert other.look() is BEGUN
    other.release(Failed(data=ValueError("of another request")))
    assert waits.look() is BEGUN
    waits.release(None)
