"""A FlowRun that waits for somebody to decide: what it says, when it is looked at again, and how it goes on."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.unit.reconcile.builders import (
    NOW,
    actions,
    at,
    attempt,
    condition,
    flow_run,
    journal,
    run_observed,
    seen,
    status,
    text,
    told,
)

from kapstan import ids
from kapstan.ids import new_id
from kapstan.ports import Doubt
from kapstan.reconcile.kinds.flow_run import decision
from kapstan.reconcile.kinds.flow_run.actions import StartAttempt
from kapstan.reconcile.kinds.flow_run.observed import Record
from kapstan.reconcile.plan import EmitEvent, Plan, SetStatus

DOUBT = Doubt("shop:charge", "k" * 52, new_id())
OTHER = Doubt("shop:refund", "r" * 52, new_id())


def parked(number: int = 1, doubt: Doubt | None = DOUBT, message: str = "why") -> Record:
    return journal(told(number, "Suspended", message=message, doubt=doubt))


def plan_of(before: dict[str, Any], record: Record, seconds: float = 0, **fields: Any) -> Plan:
    spec = fields.pop("spec", {})
    return decision.reconcile(run_observed(flow_run(before, **spec), record=record, **fields), at(seconds))


def parks(**fields: Any) -> Plan:
    """The look that finds that the first attempt has ended parked."""
    running = {"phase": "Running", "attempts": [attempt(1)]}
    return plan_of(running, parked(), attempts=(seen(ended=True, exit_code=0),), **fields)


def events(plan: Plan, reason: str = "Parked") -> list[str]:
    return [event.message for event in actions(plan, EmitEvent) if event.reason == reason]


def types(plan: Plan) -> list[str]:
    return [one["type"] for one in status(plan)["conditions"]]


def started(plan: Plan) -> list[int]:
    return [start.request.attempt for start in actions(plan, StartAttempt)]


def test_it_names_the_task_the_run_and_the_command_and_says_so_once() -> None:
    plan = parks()
    assert (status(plan)["phase"], condition(status(plan), "EffectsInDoubt")) == ("Suspended", ("True", "Parked"))
    (message,) = events(plan)
    assert message == status(plan)["message"]
    for part in ("shop:charge", str(ids.to_uuid(DOUBT.run_id)), f"kapstan task-run resolve {'k' * 52}"):
        assert part in message
    assert isinstance(plan.actions[0], SetStatus), "the Event comes after the status that says so"
    again = plan_of(status(plan), parked(), 30)
    assert again.actions == (), "nothing new, and nothing is written"
    unknown = plan_of(status(plan), Record(unreachable="no answer"), 30)
    assert condition(status(unknown), "EffectsInDoubt") == ("True", "Parked"), "what cannot be read changes nothing"


def test_it_is_looked_at_soon_and_then_once_a_minute() -> None:
    plan = parks()
    assert plan.requeue_at == NOW + timedelta(seconds=5)
    ended = NOW - timedelta(seconds=5)  # by the word of its record
    for seconds, pause in ((15, 5), (120, 30), (10_000, 60)):
        later = plan_of(status(plan), parked(), (ended - NOW).total_seconds() + seconds)
        assert later.requeue_at == ended + timedelta(seconds=seconds + pause)


def test_it_goes_on_by_itself_when_somebody_has_decided() -> None:
    plan = plan_of(status(parks()), parked(), 30, in_doubt=False, place="granted")
    assert started(plan) == [2]
    assert "EffectsInDoubt" not in types(plan)
    assert events(plan) == []


def test_another_effect_in_doubt_is_another_event() -> None:
    before = status(parks()) | {"phase": "Running", "attempts": [attempt(1, outcome="Suspended"), attempt(2)]}
    plan = plan_of(before, parked(2, OTHER), attempts=(seen(2, ended=True, exit_code=0),))
    (message,) = events(plan)
    assert "shop:refund" in message
    assert condition(status(plan), "EffectsInDoubt") == ("True", "Parked")


def test_one_that_is_parked_again_and_again_waits_longer() -> None:
    ends = [attempt(number, outcome="Suspended", finishedAt=text(-1)) for number in (1, 2, 3)]
    plan = plan_of({"phase": "Suspended", "attempts": ends}, parked(3), in_doubt=False, place="granted")
    assert started(plan) == []
    assert plan.requeue_at == at(1)


def test_one_that_is_cancelled_says_it_no_more() -> None:
    plan = plan_of(status(parks()), parked(), 30, spec={"cancel": True})
    assert status(plan)["phase"] == "Cancelled"
    assert "EffectsInDoubt" not in types(plan)


def test_one_that_is_suspended_by_hand_too_stays_so_when_it_is_decided() -> None:
    before = status(parks())
    plan = plan_of(before, parked(), 30, spec={"suspend": True}, in_doubt=True)
    assert plan.actions == ()
    plan = plan_of(before, parked(), 30, spec={"suspend": True}, in_doubt=False)
    assert (status(plan)["phase"], started(plan)) == ("Suspended", [])
    assert "EffectsInDoubt" not in types(plan)


@pytest.mark.parametrize("doubt", [DOUBT, None])
def test_a_person_has_it_go_on_whatever_it_is_parked_for(doubt: Doubt | None) -> None:
    before = status(plan_of({"phase": "Running", "attempts": [attempt(1)]}, parked(doubt=doubt), attempts=(seen(),)))
    asked = {"spec": {"resume": 1}}
    assert started(plan_of(before, parked(doubt=doubt), 30, place="granted")) == []
    waits = plan_of(before, parked(doubt=doubt), 30, **asked)
    assert len(events(waits, "Resumed")) == 1
    granted = plan_of(status(waits), parked(doubt=doubt), 31, place="granted", **asked)
    assert (started(granted), events(granted, "Resumed")) == ([2], [])
    second = plan_of(status(granted) | {"phase": "Running"}, parked(2, doubt), 60, attempts=(seen(2),), **asked)
    assert (status(second)["phase"], started(second)) == ("Suspended", []), "once for each time that it was asked"


def test_what_only_a_person_can_decide_is_told_in_the_status() -> None:
    record = parked(doubt=None, message="a rollback is not complete")
    plan = plan_of({"phase": "Running", "attempts": [attempt(1)]}, record, attempts=(seen(),))
    assert "a rollback is not complete; look at it, then: kapstan flow-run resume run" in status(plan)["message"]
    assert "EffectsInDoubt" not in types(plan)
    assert plan.requeue_at is None


@pytest.mark.parametrize(
    "doubt",
    [
        Doubt("\udcff" * 9000, "k" * 52, "no id"),
        Doubt("shop:charge\n", "$(rm -rf ~)@" + "s" * 9000, ""),
    ],
)
def test_whatever_a_flow_calls_its_task_the_status_comes_to_rest(doubt: Doubt) -> None:
    running = {"phase": "Running", "attempts": [attempt(1)]}
    plan = plan_of(running, parked(doubt=doubt), attempts=(seen(),))
    (message,) = events(plan)
    assert "kapstan task-run resolve" in message[:500]
    written = status(plan)
    written["message"].encode()
    assert len(written["message"]) < 5000
    assert plan_of(written, parked(doubt=doubt), 60).actions == ()


def test_a_word_for_the_shell_is_quoted() -> None:
    plan = plan_of(
        {"phase": "Running", "attempts": [attempt(1)]}, parked(doubt=Doubt("t", "k@$(id)", "")), attempts=(seen(),)
    )
    assert "kapstan task-run resolve 'k@$(id)'" in events(plan)[0]
