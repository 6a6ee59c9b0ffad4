"""A run that is told to stop, to rest, or is over, row by row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.reconcile.builders import (
    NOW,
    actions,
    at,
    attempt,
    flow_run,
    gone,
    journal,
    pool,
    run_observed,
    seen,
    status,
    text,
    told,
)

from kapstan.ports import AttemptObservation
from kapstan.reconcile.kinds.flow_run import decision as reconciler
from kapstan.reconcile.kinds.flow_run.actions import (
    DeclareEnd,
    NoteEnd,
    RemoveAttempt,
    StartAttempt,
    StopAttempt,
)
from kapstan.reconcile.kinds.flow_run.observed import Record, RunObserved
from kapstan.reconcile.kinds.flow_run.plan import RunPlan
from kapstan.reconcile.plan import Plan, SetStatus
from kapstan.resources import WorkPool


def reconcile(observed: RunObserved) -> Plan:
    return reconciler.reconcile(observed, NOW)


def kinds(plan: Plan) -> list[type[Any]]:
    return [type(action) for action in plan.actions]


def running(**fields: Any) -> dict[str, Any]:
    return {"phase": "Running", "attempts": [attempt(1, **fields)]}


# ---------------------------------------------------------------------------------------------- cancel and suspend


@pytest.mark.parametrize(
    ("before", "look", "record"),
    [
        ({}, (), Record()),
        ({"phase": "Scheduled", "attempts": [attempt()]}, (gone(),), journal()),
        (running(), (gone(),), journal(told(1, "HandedBack"))),
        (running(), (gone(),), journal(told(1))),
    ],
)
def test_a_cancelled_run_ends_and_its_record_is_told(before: Any, look: Any, record: Record) -> None:
    plan = reconcile(run_observed(flow_run(before, cancel=True), attempts=look, record=record))
    assert status(plan)["phase"] == "Cancelled"
    assert actions(plan, DeclareEnd)[0].state == "Cancelled"
    assert actions(plan, StartAttempt) == []


def test_what_completed_before_it_heard_of_the_cancellation_completed() -> None:
    record = Record((told(1, "Completed"),))
    plan = reconcile(run_observed(flow_run(running(), cancel=True), attempts=(seen(stopping=True),), record=record))
    assert status(plan)["phase"] == "Completed"


DAMAGED = Record(unreachable="signed with another key", damaged=True)


def test_a_record_that_cannot_be_read_keeps_no_run_from_being_cancelled() -> None:
    """Not one that the store will tell of when it is back; and not before its process is gone."""
    plan = reconcile(run_observed(flow_run(running(), cancel=True), attempts=(gone(),), record=DAMAGED))
    assert kinds(plan)[:2] == [DeclareEnd, SetStatus]
    assert status(plan)["phase"] == "Cancelled"
    away = replace(DAMAGED, damaged=False)
    plan = reconcile(run_observed(flow_run(running(), cancel=True), attempts=(gone(),), record=away))
    assert kinds(plan) == [SetStatus]
    assert "spec.cancel" not in str(status(plan))
    plan = reconcile(run_observed(flow_run(running(), cancel=True), attempts=(seen(),), record=DAMAGED))
    assert StopAttempt in kinds(plan)
    assert status(plan)["phase"] == "Cancelling"


def test_a_record_that_cannot_be_read_says_how_the_run_is_given_up() -> None:
    plan = reconcile(run_observed(flow_run(running()), attempts=(gone(),), record=DAMAGED))
    assert "signed with another key; to give the run up, cancel it (spec.cancel)" in str(status(plan))


def test_a_suspended_run_rests_and_goes_on_when_that_is_taken_back() -> None:
    handed_back = run_observed(
        flow_run(running(), suspend=True), attempts=(gone(),), record=journal(told(1, "HandedBack"))
    )
    plan = reconcile(handed_back)
    assert (status(plan)["phase"], plan.requeue_at) == ("Suspended", None)
    plan = reconcile(run_observed(flow_run(status(plan)), place="granted", record=journal(told(1, "HandedBack"))))
    assert [start.request.attempt for start in actions(plan, StartAttempt)] == [2]


def test_a_run_that_suspended_itself_goes_on_at_its_time() -> None:
    record = Record((told(1, "Suspended", until=at(300).timestamp()),))
    plan = reconcile(run_observed(flow_run(running()), attempts=(seen(ended=True, exit_code=0),), record=record))
    assert (status(plan)["phase"], plan.requeue_at) == ("Suspended", at(300))
    due = journal(told(1, "Suspended", until=at(-1).timestamp()))
    plan = reconcile(run_observed(flow_run(status(plan)), place="granted", record=due))
    assert [start.request.attempt for start in actions(plan, StartAttempt)] == [2]


def test_how_long_a_run_sleeps_is_read_from_the_journal_where_the_index_forgot_it() -> None:
    asleep = {"phase": "Suspended", "attempts": [attempt(1, outcome="Suspended", finishedAt=text(-60))]}
    assert reconcile(run_observed(flow_run(asleep))) == RunPlan(needs_journal=True)


# ---------------------------------------------------------------------------------------------- after the end

OVER = {"phase": "Completed", "attempts": [attempt(1, outcome="Completed", finishedAt=text(-10))]}


def test_the_exit_code_is_added_when_it_is_seen() -> None:
    plan = reconcile(run_observed(flow_run(OVER), attempts=(seen(ended=True, exit_code=0, pod="p"),)))
    assert (status(plan)["attempts"][0]["exitCode"], status(plan)["phase"]) == (0, "Completed")
    assert plan.requeue_at == at(3590)


def test_a_process_that_lingers_after_its_run_is_stopped_in_the_end() -> None:
    assert reconcile(run_observed(flow_run(OVER), attempts=(seen(running=True),))) == RunPlan(requeue_at=at(20))
    late = {**OVER, "attempts": [attempt(1, outcome="Completed", finishedAt=text(-31))]}
    plan = reconcile(run_observed(flow_run(late), attempts=(seen(running=True),)))
    assert kinds(plan) == [StopAttempt]


def test_what_is_left_of_a_finished_run_is_removed_in_time() -> None:
    old = {**OVER, "attempts": [attempt(1, outcome="Completed", finishedAt=text(-4000), exitCode=0)]}
    plan = reconcile(run_observed(flow_run(old), attempts=(seen(ended=True, exit_code=0),)))
    assert [removal.job for removal in actions(plan, RemoveAttempt)] == ["run-1"]


# ---------------------------------------------------------------------------------------------- what was seen of an end


def test_a_container_that_has_terminated_is_noted_before_the_status_says_lost() -> None:
    logged = tuple(f"line {number} {'x' * 400}" for number in range(12))
    look = seen(ended=True, exit_code=137, reason="Error", pod="run-1-x", node="far", log=logged)
    plan = reconcile(run_observed(flow_run(running()), attempts=(look,), record=journal(told(1))))
    note, written = plan.actions[:2]
    assert isinstance(note, NoteEnd)
    assert isinstance(written, SetStatus)
    assert (note.namespace, note.attempt) == ("shop", 1)
    assert dict(note.evidence) == {
        "seen": "its container has terminated with exit code 137",
        "cause": "Error",
        "exit_code": 137,
        "pod": "run-1-x",
        "node": "far",
        "log": tuple(line[:300] for line in logged[2:]),
    }
    assert "line 3" not in str(status(plan)), "what a flow logs does not stand in its status"


@pytest.mark.parametrize(
    ("look", "of_pool"),
    [
        (gone(), pool()),
        (seen(ended=True, reason="Evicted"), pool()),
        (seen(ended=True, exit_code=-9), pool(type="process")),
    ],
    ids=["its pod is only missing", "nothing was seen of its process", "its machine knows"],
)
def test_what_was_not_seen_to_end_is_not_noted(look: AttemptObservation, of_pool: WorkPool) -> None:
    plan = reconcile(run_observed(flow_run(running()), attempts=(look,), record=journal(told(1)), pool=of_pool))
    assert status(plan)["attempts"][0]["outcome"] == "Lost"
    assert actions(plan, NoteEnd) == []


def test_an_attempt_that_told_its_end_itself_is_not_noted() -> None:
    plan = reconcile(
        run_observed(
            flow_run(running()), attempts=(seen(ended=True, exit_code=0),), record=journal(told(1, "Completed"))
        )
    )
    assert status(plan)["phase"] == "Completed"
    assert actions(plan, NoteEnd) == []
