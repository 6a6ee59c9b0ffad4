"""Background runs that are given up and may have begun: how they end is what their register says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from tests.integration.keyed import charging

from kapstan import backend as backends
from kapstan.engine import values
from kapstan.engine.background import BackgroundEngine, RetryLater
from kapstan.errors import CrashedRun, HandBack, RunFailed
from kapstan.ids import Token, new_id
from kapstan.ports import Claim, Outcome
from kapstan.ports.register import RegisterRecord, RegisterState
from kapstan.settings import Settings
from kapstan.states import EffectClass
from kapstan.tasks import Task

ONCE = EffectClass.AT_MOST_ONCE
ran: list[str] = []


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    ran.clear()
    yield
    backends.use(None)


def order(number: str) -> str:
    ran.append(number)
    if number == "told to go":
        raise HandBack
    if number == "bad":
        raise ValueError(number)
    return f"done {number}"


def subject(effect: EffectClass = ONCE) -> Task[..., Any]:
    made = Task(order, name=f"given-up-{effect}", effect=effect)
    made.spec = replace(made.spec, cache_policy=charging.ByInputs())
    return made


def claimed(task: Task[..., Any], *args: str, **fields: Any) -> Claim:
    run_id = new_id()
    key = values.arguments_key(run_id, task.spec.identity)
    sealed = values.seal_value(backends.current(), [list(args), {}], "arguments", key, what="arguments")
    return Claim(run_id, task.spec.identity, Token(1, 1), 1, 0, ONCE, sealed)._replace(**fields)


def run(task: Task[..., Any], claim: Claim) -> Outcome | RetryLater:
    with closing(BackgroundEngine({task.spec.identity: task.spec}, backends.current())) as engine:
        return engine.run(claim)


def end(task: Task[..., Any], claim: Claim) -> Outcome:
    ended = run(task, claim)
    assert isinstance(ended, Outcome)
    return ended


def later(claim: Claim, **fields: Any) -> Claim:
    return claim._replace(token=Token(1, claim.token.epoch + 1), **fields)


def register() -> RegisterRecord:
    (key,) = backends.current().register.all_keys()
    entry = backends.current().register.read(key)
    assert entry is not None
    return entry.record


def test_one_that_never_began_is_cancelled_and_no_earlier_claim_begins_it(setting: Settings) -> None:
    """A process that stood still comes back with the first claim: its register says that the run has ended."""
    task = subject()
    first = claimed(task, "1")
    assert end(task, later(first, cancelled=True)).state == "cancelled"
    assert register().state is RegisterState.RELEASED
    late = end(task, first)
    assert late.state == "failed"
    error = values.open_failure(backends.current(), late.envelope, first.run_id)
    assert isinstance(error, RunFailed)
    assert not ran
    assert end(task, claimed(task, "1")).state == "completed", "another run of the key"


def test_one_whose_processes_died_before_it_began_crashed(setting: Settings) -> None:
    task = subject()
    claim = claimed(task, "2", crashes=3)
    ended = end(task, claim)
    error = values.open_failure(backends.current(), ended.envelope, claim.run_id, state="crashed")
    assert ended.state == "crashed"
    assert isinstance(error, CrashedRun)
    assert "its process died 3 times (KAPSTAN_MAX_CRASHES)" in str(error)
    assert end(task, later(claim, crashes=0)).state == "crashed", "whatever the queue forgets"
    assert not ran


@pytest.mark.parametrize("fields", [{"cancelled": True}, {"crashes": 3}], ids=["cancelled", "crashed"])
def test_one_that_was_committed_completed(setting: Settings, fields: dict[str, Any]) -> None:
    task = subject()
    first = claimed(task, "3")
    assert end(task, first).state == "completed"
    ended = end(task, later(first, **fields))
    assert ended.state == "completed"
    assert values.open_value(backends.current(), ended.envelope, "result", first.run_id) == "done 3"
    assert ran == ["3"]


@pytest.mark.parametrize("fields", [{"cancelled": True}, {"crashes": 3}], ids=["cancelled", "crashed"])
def test_one_that_was_broken_into_is_parked(setting: Settings, fields: dict[str, Any]) -> None:
    task = subject()
    first = claimed(task, "told to go")
    with pytest.raises(HandBack):
        run(task, first)
    ended = run(task, later(first, **fields))
    while isinstance(ended, RetryLater):  # until another thread has written what became of it
        assert not ended.counted
        ended = run(task, later(first, **fields))
    assert ended.state == "parked"
    assert register().state is RegisterState.PARKED
    assert ran == ["told to go"]


def test_one_that_raised_has_failed(setting: Settings) -> None:
    task = subject()
    first = claimed(task, "bad")
    assert end(task, first).state == "failed"
    assert end(task, later(first, cancelled=True)).state == "failed"
    assert ran == ["bad"]


def test_a_task_that_has_no_register_any_more_is_not_executed(setting: Settings) -> None:
    """Its class was changed between the claims."""
    task = subject(EffectClass.PURE)
    assert end(task, claimed(task, "4", cancelled=True)).state == "cancelled"
    assert end(task, claimed(task, "4", crashes=3)).state == "crashed"
    assert not ran


def test_one_whose_arguments_cannot_be_read_says_that_it_is_in_doubt(setting: Settings) -> None:
    """No key can be made of them, so no register tells."""
    task = subject()
    first = claimed(task, "5", envelope=b"")
    for claim, doubt in ((first, False), (later(first), True), (first._replace(crashes=1), True)):
        ended = end(task, claim)
        error = values.open_failure(backends.current(), ended.envelope, claim.run_id, state="crashed")
        assert ended.state == "crashed"
        assert ("in doubt" in str(error)) == doubt
