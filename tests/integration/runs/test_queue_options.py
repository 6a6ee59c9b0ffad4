"""``queue`` and ``priority`` of a task and of a call: where its background runs wait."""

from __future__ import annotations

from typing import Any

import pytest

from kapstan import ids, task
from kapstan.backend import Backend
from kapstan.errors import ConfigurationError


@task
def ordinary(_a: int) -> None:
    """Nobody serves it."""


@task(queue="slow", priority=-2)
def placed(_a: int) -> None:
    """Nobody serves it."""


def place(backend: Backend, future: Any) -> tuple[str, int]:
    record = backend.queue.record(ids.parse(future.task_run_id))
    assert record is not None
    return record.queue, record.priority


def test_a_task_says_where_its_runs_wait(backend: Backend) -> None:
    assert place(backend, ordinary.delay(1)) == ("default", 0)
    assert place(backend, placed.delay(1)) == ("slow", -2)
    assert [place(backend, each) for each in placed.map([1, 2], deferred=True)] == [("slow", -2)] * 2
    assert place(backend, ordinary.with_options(queue="q", priority=9).delay(1)) == ("q", 9)
    assert place(backend, placed.with_options(queue=None, priority=None).delay(1)) == ("default", 0)


def test_a_call_may_say_otherwise(backend: Backend) -> None:
    assert place(backend, ordinary.apply_async((1,), queue="fast", priority=100)) == ("fast", 100)
    assert place(backend, placed.apply_async((1,), priority=0)) == ("slow", 0)
    assert place(backend, placed.apply_async((1,), queue="default")) == ("default", -2)


def test_the_same_run_stays_where_it_is(backend: Backend) -> None:
    first = ordinary.apply_async((1,), priority=3, idempotency_key="k")
    again = ordinary.apply_async((1,), priority=-3, queue="other", idempotency_key="k")
    assert again.task_run_id == first.task_run_id
    assert place(backend, again) == ("default", 3)


@pytest.mark.parametrize(
    "given",
    [{"priority": 101}, {"priority": True}, {"priority": 1.0}, {"priority": "high"}, {"queue": "a b"}, {"queue": ""}],
)
def test_what_cannot_be_is_refused_by_name(backend: Backend, given: dict[str, Any]) -> None:
    (name, value), *_ = given.items()
    with pytest.raises(ConfigurationError, match=f"{name}={value!r}: give"):
        ordinary.apply_async((1,), **given)
    with pytest.raises(ConfigurationError, match=f"{name}={value!r}: give"):
        ordinary.with_options(**given)
    assert backend.queue.runs() == []


@task(group="{tenant}")
def grouped(tenant: Any, _a: int = 1) -> None:
    """Nobody serves it."""


def group_of(backend: Backend, future: Any) -> str:
    record = backend.queue.record(ids.parse(future.task_run_id))
    assert record is not None
    return record.group


def test_a_task_says_to_which_group_its_runs_belong(backend: Backend) -> None:
    assert group_of(backend, grouped.delay("acme")) == "acme"
    assert group_of(backend, grouped.apply_async(("acme",), group="other")) == "other"
    assert [group_of(backend, each) for each in grouped.map(["a", "b"], deferred=True)] == ["a", "b"]
    by_function = grouped.with_options(group=lambda parameters: parameters["tenant"])
    assert group_of(backend, by_function.delay("x")) == "x"
    assert group_of(backend, by_function.delay(None)) == ""
    assert group_of(backend, grouped.delay("line\nbreak" * 50)).startswith("sha256:")


@pytest.mark.parametrize(
    ("group", "words"), [("{tenants}", "there is no parameter 'tenants'"), (lambda parameters: 5, "groups gave 5")]
)
def test_a_group_that_cannot_be_made_submits_nothing(backend: Backend, group: Any, words: str) -> None:
    wrong = grouped.with_options(group=group)
    for submit in (lambda: wrong.delay("a"), lambda: wrong.map(["a", "b"], deferred=True)):
        with pytest.raises(ConfigurationError, match=words):
            submit()
    assert backend.queue.runs() == []


@pytest.mark.parametrize("rate", ["100", "0/m", "1/week", "-1/s", 5, "1.5/s", ""])
def test_a_rate_that_cannot_be_is_refused(rate: Any) -> None:
    with pytest.raises(ConfigurationError, match="rate_limit="):
        grouped.with_options(rate_limit=rate)
