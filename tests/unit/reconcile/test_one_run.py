"""One idempotency key is one run; a person has a failed run go on."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.reconcile.builders import (
    actions,
    at,
    attempt,
    condition,
    flow_run,
    gone,
    journal,
    run_observed,
    status,
    text,
    told,
)

from kapstan.ports import Key
from kapstan.reconcile.brief import RunBrief
from kapstan.reconcile.kinds.flow_run import decision
from kapstan.reconcile.kinds.flow_run.actions import DeclareEnd, StartAttempt
from kapstan.reconcile.kinds.flow_run.observed import Record, RunObserved, run_id_of_run
from kapstan.reconcile.kinds.flow_run.plan import RunPlan
from kapstan.reconcile.kinds.work_pool.actions import AskPlace
from kapstan.reconcile.plan import EmitEvent
from kapstan.resources import FlowRun


def reconcile(observed: RunObserved, seconds: float = 0) -> RunPlan:
    return decision.reconcile(observed, at(seconds))


def keyed(name: str = "run", deployment: str = "nightly", key: str | None = "order-7") -> FlowRun:
    run = flow_run(idempotencyKey=key)
    reference = run.spec.deployment_ref.model_copy(update={"name": deployment})
    metadata = run.metadata.model_copy(update={"name": name, "uid": f"uid-{name}"})
    return run.model_copy(
        update={"metadata": metadata, "spec": run.spec.model_copy(update={"deployment_ref": reference})}
    )


# ---------------------------------------------------------------------------------------------- one key, one run


def test_the_key_is_the_run_whatever_the_object_is_called() -> None:
    assert run_id_of_run(keyed("one")) == run_id_of_run(keyed("two"))
    assert run_id_of_run(keyed("one")) != run_id_of_run(keyed("one", deployment="weekly"))
    assert run_id_of_run(keyed("one")) != run_id_of_run(keyed("one", key="order-8"))
    assert run_id_of_run(keyed("one", key=None)) != run_id_of_run(keyed("two", key=None))
    assert RunBrief.of(keyed("one").to_dict()).run_id == run_id_of_run(keyed("two")), "also where no model is made"


@pytest.mark.parametrize(("outcome", "phase"), [("Completed", "Completed"), ("Failed", "Failed")])
def test_a_run_that_is_over_is_not_executed_for_an_object_that_is_made_again(outcome: str, phase: str) -> None:
    run = flow_run(idempotencyKey="order-7")
    assert reconcile(run_observed(run)) == RunPlan(needs_journal=True), "before it asks for a place"
    plan = reconcile(run_observed(run, record=journal(told(3, outcome))))
    assert status(plan)["phase"] == phase
    assert [entry["number"] for entry in status(plan)["attempts"]] == [3]
    assert actions(plan, AskPlace) == []


@pytest.mark.parametrize("phase", ["Crashed", "Cancelled"])
def test_what_the_control_plane_ended_stays_ended(phase: Any) -> None:
    """For an object that is made again, and for the same one if the operator died before it wrote the status."""
    record = journal(told(1), told(2, phase))
    again = reconcile(run_observed(flow_run(idempotencyKey="order-7"), record=record))
    assert (status(again)["phase"], actions(again, AskPlace)) == (phase, [])
    open_ = {"phase": "Running", "attempts": [attempt(1, outcome="Lost", finishedAt=text(-600))]}
    same = reconcile(run_observed(flow_run(open_), attempts=(gone(1),), record=record, place="granted"))
    assert (status(same)["phase"], actions(same, StartAttempt)) == (phase, [])


def test_one_that_was_given_up_and_goes_on_has_a_next_attempt_of_its_own_number() -> None:
    """The record still says Crashed, under the number that the operator took to write it."""
    resumed = over("Crashed", "Lost", resumed=1, resumedAfter=2) | {"phase": "Scheduled"}
    record = journal(told(1), told(2), told(3, "Crashed"))
    plan = reconcile(run_observed(flow_run(resumed, resume=1), attempts=(gone(2),), record=record, place="granted"))
    (start,) = actions(plan, StartAttempt)
    assert (start.request.attempt, start.request.again) == (4, True)
    tried = {**resumed, "attempts": [*resumed["attempts"], attempt(4, outcome="Lost", finishedAt=text(-600))]}
    record = journal(told(1), told(2), told(3, "Crashed"), told(4), told(5, "Crashed"))
    plan = reconcile(run_observed(flow_run(tried, resume=1), attempts=(gone(4),), record=record, place="granted"))
    assert (status(plan)["phase"], actions(plan, StartAttempt)) == ("Crashed", []), "given up once more"


def test_a_run_that_was_lost_on_the_way_goes_on() -> None:
    run = flow_run(idempotencyKey="order-7")
    assert actions(reconcile(run_observed(run, record=journal(told(1)))), AskPlace)
    plan = reconcile(run_observed(run, record=journal(told(1)), place="granted"))
    assert actions(plan, StartAttempt)[0].request.attempt == 2


def test_nothing_starts_while_the_record_cannot_be_read() -> None:
    observed = run_observed(flow_run(idempotencyKey="order-7"), record=Record(unreachable="MinIO is away"))
    plan = reconcile(observed)
    assert condition(status(plan), "Degraded") == ("True", "StoreUnavailable")
    assert actions(plan, AskPlace) == []


def test_a_second_object_waits_for_the_one_that_has_the_run() -> None:
    twin = Key("FlowRun", "shop", "first")
    plan = reconcile(run_observed(flow_run(idempotencyKey="order-7"), twin=twin))
    assert condition(status(plan), "Progressing") == ("False", "SameRun")
    assert actions(plan, AskPlace) == []
    cancelled = reconcile(run_observed(flow_run(idempotencyKey="order-7", cancel=True), twin=twin))
    assert status(cancelled)["phase"] == "Cancelled"
    assert actions(cancelled, DeclareEnd) == [], "the run itself goes on"


# ---------------------------------------------------------------------------------------------- resume


def over(phase: str, outcome: str, losses: int = 0, **fields: Any) -> dict[str, Any]:
    ended = attempt(2, outcome=outcome, finishedAt=text(-600))
    return {"phase": phase, "attempts": [ended], "infrastructureLosses": losses, **fields}


@pytest.mark.parametrize(("phase", "outcome"), [("Failed", "Failed"), ("Crashed", "Lost")])
def test_a_person_has_it_go_on(phase: str, outcome: str) -> None:
    plan = reconcile(run_observed(flow_run(over(phase, outcome, 6), resume=1), attempts=(gone(2),)))
    written = status(plan)
    assert (written["phase"], written["resumed"], written["resumedAfter"]) == ("Scheduled", 1, 2)
    assert written["infrastructureLosses"] == 0, "its budget is new"
    assert condition(written, "Degraded") == ("False", "AsExpected")
    assert [event.reason for event in actions(plan, EmitEvent)] == ["Resumed"]
    assert len(actions(plan, AskPlace)) == 1
    record = journal(told(2, "Failed" if outcome == "Failed" else None))
    later = reconcile(run_observed(flow_run(written, resume=1), record=record, place="granted"), 60)
    (start,) = actions(later, StartAttempt)
    assert (start.request.attempt, start.request.again) == (3, True), "what failed is executed again"
    assert not status(later).get("diagnosis")


def test_every_attempt_after_it_drops_what_failed_and_none_before() -> None:
    """The attempt that first follows may be lost before it has dropped anything; dropping twice is harmless."""
    lost = {"outcome": "Lost", "finishedAt": text(-600)}
    state = over("Scheduled", "Failed", resumed=1, resumedAfter=2)
    state["attempts"].append(attempt(3, **lost))
    plan = reconcile(run_observed(flow_run(state, resume=1), record=journal(told(3)), place="granted"))
    assert actions(plan, StartAttempt)[0].request.again
    fresh = {"phase": "Scheduled", "attempts": [attempt(1, **lost)]}
    plan = reconcile(run_observed(flow_run(fresh), record=journal(told(1)), place="granted"))
    assert not actions(plan, StartAttempt)[0].request.again


@pytest.mark.parametrize(
    ("before", "spec"),
    [
        (over("Failed", "Failed", resumed=1), {"resume": 1}),
        (over("Failed", "Failed"), {}),
        (over("Failed", "Failed"), {"resume": 1, "cancel": True}),
        (over("Completed", "Completed"), {"resume": 1}),
        (over("Cancelled", "Cancelled"), {"resume": 1}),
    ],
)
def test_nothing_goes_on_that_nobody_may_ask_for_now(before: dict[str, Any], spec: dict[str, Any]) -> None:
    run = flow_run(before, **spec)
    assert reconcile(run_observed(run, attempts=(gone(2),))) == RunPlan()
    assert RunBrief.of(run.to_dict()).ended


def test_a_run_that_shall_go_on_is_not_history() -> None:
    assert not RunBrief.of(flow_run(over("Failed", "Failed"), resume=1).to_dict()).ended
