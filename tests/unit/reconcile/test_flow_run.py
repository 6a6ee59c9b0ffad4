"""One run's next step, row by row: what is seen, and what is done about it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.reconcile.builders import (
    NOW,
    actions,
    at,
    attempt,
    condition,
    deployment,
    flow_run,
    gone,
    journal,
    lost,
    pool,
    run_observed,
    seen,
    status,
    text,
    told,
)

from kapstan.ports import AttemptObservation, Key
from kapstan.reconcile.kinds.flow_run import decision as reconciler
from kapstan.reconcile.kinds.flow_run.actions import DeclareEnd, StartAttempt, StopAttempt
from kapstan.reconcile.kinds.flow_run.observed import Record, RunObserved
from kapstan.reconcile.kinds.flow_run.plan import RunPlan
from kapstan.reconcile.kinds.work_pool.actions import AskPlace
from kapstan.reconcile.plan import EmitEvent, Plan, SetStatus

RUN = Key("FlowRun", "shop", "run")


def reconcile(observed: RunObserved) -> Plan:
    return reconciler.reconcile(observed, NOW)


def kinds(plan: Plan) -> list[type[Any]]:
    return [type(action) for action in plan.actions]


def running(**fields: Any) -> dict[str, Any]:
    return {"phase": "Running", "attempts": [attempt(1, **fields)]}


# ---------------------------------------------------------------------------------------------- before a launch


def test_a_new_run_asks_its_pool_and_writes_nothing_yet() -> None:
    plan = reconcile(run_observed(flow_run()))
    assert kinds(plan) == [AskPlace]
    assert plan.requeue_at == at(0.25)


def test_a_run_that_waits_for_its_pool_says_so() -> None:
    plan = reconcile(run_observed(flow_run(), place="asked"))
    assert status(plan)["phase"] == "Scheduled"
    assert condition(status(plan), "Progressing") == ("True", "WaitsForPool")


def test_a_granted_run_reads_its_journal_before_anything_is_launched() -> None:
    assert reconcile(run_observed(flow_run(), place="granted")) == RunPlan(needs_journal=True)


def test_the_attempt_is_written_before_the_launch_and_the_phase_after_it() -> None:
    plan = reconcile(run_observed(flow_run(), place="granted", record=journal()))
    assert kinds(plan) == [SetStatus, StartAttempt, SetStatus, EmitEvent]
    ahead, _, after, _ = plan.actions
    assert isinstance(ahead, SetStatus)
    assert isinstance(after, SetStatus)
    assert ahead.status["phase"] == "Scheduled"
    assert ahead.status["attempts"] == [{"number": 1, "job": "run-1"}]
    assert after.status["phase"] == "Pending"


def test_the_request_carries_the_run_and_its_parameters() -> None:
    run = flow_run(parameters={"b": 2})
    observed = run_observed(run, deployment=deployment(parameters={"a": 1, "b": 1}), place="granted", record=journal())
    request = actions(reconcile(observed), StartAttempt)[0].request
    assert (request.run, request.uid, request.attempt, request.job) == (RUN, "uid-run", 1, "run-1")
    assert request.parameters == {"a": 1, "b": 2}
    assert request.run_id == observed.run_id


def test_an_unreachable_store_is_waited_for_and_told() -> None:
    plan = reconcile(run_observed(flow_run(), place="granted", record=Record(unreachable="no answer in 60 s")))
    assert kinds(plan) == [SetStatus]
    assert condition(status(plan), "Degraded") == ("True", "StoreUnavailable")
    assert plan.requeue_at == at(5)


@pytest.mark.parametrize(
    ("fields", "reason", "words"),
    [
        (
            {"deployment": None},
            "DeploymentNotFound",
            "spec.deploymentRef.name: no Deployment of kapstan.dev named 'nightly'",
        ),
        ({"pool": None}, "WorkPoolNotFound", "no WorkPool named 'pool' in namespace 'shop'"),
        ({"pool": pool(type="process"), "launcher": None}, "NeedsProcessWorker", "kapstan worker start --pool pool"),
        (
            {"deployment": deployment(flow={"entrypoint": "flow.py:main"})},
            "NoImage",
            "spec.flow.image of Deployment 'nightly' is missing",
        ),
    ],
)
def test_what_is_missing_is_told_with_field_value_and_fix(fields: dict[str, Any], reason: str, words: str) -> None:
    plan = reconcile(run_observed(flow_run(), **fields))
    assert kinds(plan) == [SetStatus, EmitEvent]
    assert condition(status(plan), "Degraded") == ("True", reason)
    assert words in status(plan)["message"]
    again = flow_run(status(plan))
    assert kinds(reconcile(run_observed(again, **fields))) == []


def test_parameters_beyond_the_limit_keep_a_run_from_being_launched() -> None:
    """The API server cannot measure them: 1.4 MB were taken."""
    run = flow_run(parameters={"text": "x" * 2048})
    plan = reconcile(run_observed(run, place="granted", record=journal()))
    assert actions(plan, StartAttempt) == []
    assert condition(status(plan), "Degraded") == ("True", "InvalidSpec")
    assert "spec.parameters: parameters take more than 2048 bytes" in status(plan)["message"]


def test_what_is_found_in_the_end_is_launched() -> None:
    blocked = status(reconcile(run_observed(flow_run(), deployment=None)))
    plan = reconcile(run_observed(flow_run(blocked), place="granted", record=journal()))
    assert condition(status(plan), "Degraded") == ("False", "AsExpected")
    assert len(actions(plan, StartAttempt)) == 1


def test_a_run_for_later_waits_for_its_moment() -> None:
    plan = reconcile(run_observed(flow_run(scheduledTime=text(90))))
    assert plan.requeue_at == at(90)
    assert condition(status(plan), "Progressing") == ("True", "Scheduled")


def test_a_run_that_somebody_else_completed_is_not_started() -> None:
    record = journal(told(1), told(2, "Completed", result_ref="flows/x"))
    plan = reconcile(run_observed(flow_run(), place="granted", record=record))
    assert actions(plan, StartAttempt) == []
    assert (status(plan)["phase"], status(plan)["resultRef"]) == ("Completed", "flows/x")


def test_attempts_that_somebody_else_made_are_counted() -> None:
    plan = reconcile(run_observed(flow_run(), place="granted", record=journal(told(1), told(2))))
    assert [start.request.attempt for start in actions(plan, StartAttempt)] == [3]


# ---------------------------------------------------------------------------------------------- while it runs


def test_the_phase_follows_the_process() -> None:
    pending = flow_run({"phase": "Pending", "attempts": [attempt()]})
    assert status(reconcile(run_observed(pending, attempts=(seen(),))))["phase"] == "Pending"
    plan = reconcile(run_observed(pending, attempts=(seen(running=True, pod="p", node="n", started_at=text(-5)),)))
    assert status(plan)["phase"] == "Running"
    assert status(plan)["attempts"][0]["pod"] == "p"


def test_nothing_new_writes_nothing() -> None:
    look = (seen(running=True),)
    first = reconcile(run_observed(flow_run(running()), attempts=look))
    assert kinds(reconcile(run_observed(flow_run(status(first)), attempts=look))) == []


def test_an_image_that_does_not_exist_is_diagnosed_while_the_pod_waits() -> None:
    look = seen(reason="ImagePullBackOff", message="nobody/nothing:1 not found")
    plan = reconcile(run_observed(flow_run({"phase": "Pending", "attempts": [attempt()]}), attempts=(look,)))
    assert status(plan)["diagnosis"]["category"] == "ImagePull"
    assert "nobody/nothing:1 not found" in status(plan)["diagnosis"]["message"]
    assert "spec.flow.image" in status(plan)["diagnosis"]["resolution"]
    assert condition(status(plan), "Degraded") == ("True", "ImagePull")


@pytest.mark.parametrize(
    ("look", "deadlines", "reason"),
    [
        (seen(created_at=text(-601)), {}, "DeadlinePending"),
        (seen(running=True, started_at=text(-31)), {"runningSeconds": 30}, "DeadlineRunning"),
    ],
)
def test_a_deadline_is_noted_before_the_process_is_stopped_and_ends_the_run(
    look: AttemptObservation, deadlines: dict[str, int], reason: str
) -> None:
    with_deadline = pool(deadlines=deadlines)
    plan = reconcile(run_observed(flow_run(running()), pool=with_deadline, attempts=(look,)))
    assert kinds(plan) == [SetStatus, StopAttempt]
    assert status(plan)["attempts"][0]["reason"] == reason
    stopped = flow_run(status(plan))
    plan = reconcile(
        run_observed(stopped, pool=with_deadline, attempts=(gone(),), record=journal(told(1, "HandedBack")))
    )
    assert (status(plan)["phase"], status(plan)["diagnosis"]["category"]) == ("Crashed", reason)
    assert actions(plan, DeclareEnd)[0].state == "Crashed"


def test_a_deadline_that_has_not_come_is_looked_at_in_time() -> None:
    plan = reconcile(run_observed(flow_run(running()), attempts=(seen(created_at=text(-590)),)))
    assert actions(plan, StopAttempt) == []
    assert plan.requeue_at == at(10)


@pytest.mark.parametrize("asked", ["cancel", "suspend"])
def test_who_is_told_to_stop_is_stopped_once(asked: str) -> None:
    run = flow_run(running(), **{asked: True})
    plan = reconcile(run_observed(run, attempts=(seen(running=True),)))
    assert [(stop.job, stop.grace) for stop in actions(plan, StopAttempt)] == [("run-1", 30.0)]
    assert actions(reconcile(run_observed(run, attempts=(seen(running=True, stopping=True),))), StopAttempt) == []


# ---------------------------------------------------------------------------------------------- how attempts end


@pytest.mark.parametrize(
    ("outcome", "phase"), [("Completed", "Completed"), ("Failed", "Failed"), ("Cancelled", "Cancelled")]
)
def test_the_record_ends_a_run_while_its_process_still_lives(outcome: str, phase: str) -> None:
    look = (seen(running=True),)
    plan = reconcile(run_observed(flow_run(running()), attempts=look, record=Record((told(1, outcome),))))
    assert status(plan)["phase"] == phase
    assert status(plan)["attempts"][0]["outcome"] == outcome
    assert actions(plan, DeclareEnd) == []


def test_the_record_ends_a_run_whose_job_was_deleted_by_hand() -> None:
    plan = reconcile(run_observed(flow_run(running()), attempts=(gone(),), record=journal(told(1, "Completed"))))
    assert status(plan)["phase"] == "Completed"


def test_a_failure_is_the_users_and_keeps_its_words() -> None:
    record = Record((told(1, "Failed", message="ValueError: no such order"),))
    plan = reconcile(run_observed(flow_run(running()), attempts=(seen(running=True),), record=record))
    assert status(plan)["diagnosis"]["category"] == "UserCode"
    assert status(plan)["message"] == "ValueError: no such order"


@pytest.mark.parametrize("look", [gone(), seen(ended=True, exit_code=-9), seen(ended=True, exit_code=0)])
def test_no_loss_is_declared_before_the_journal_was_read(look: AttemptObservation) -> None:
    assert reconcile(run_observed(flow_run(running()), attempts=(look,))) == RunPlan(needs_journal=True)
    away = run_observed(flow_run(running()), attempts=(look,), record=Record(unreachable="away"))
    assert status(reconcile(away))["phase"] == "Running"
    assert condition(status(reconcile(away)), "Degraded") == ("True", "StoreUnavailable")


@pytest.mark.parametrize(
    ("look", "category", "words"),
    [
        (seen(ended=True, exit_code=-9), "Killed", "signal 9"),
        (seen(ended=True, reason="Evicted", message="low on memory"), "Evicted", "low on memory"),
        (seen(ended=True, exit_code=70), "Killed", "could not be recorded"),
        (gone(), "Killed", "run-1 is gone"),
    ],
)
def test_a_loss_spends_the_budget_and_says_why(look: AttemptObservation, category: str, words: str) -> None:
    plan = reconcile(run_observed(flow_run(running()), attempts=(look,), record=journal(told(1))))
    written = status(plan)
    assert (written["phase"], written["infrastructureLosses"]) == ("Scheduled", 1)
    assert written["attempts"][0]["outcome"] == "Lost"
    assert written["diagnosis"]["category"] == category
    assert words in written["diagnosis"]["message"]
    assert [event.reason for event in actions(plan, EmitEvent)] == ["AttemptLost"]


OUTGROWN = {"exit_code": 137, "reason": "OOMKilled"}


def test_a_flow_that_outgrows_its_pod_spends_its_own_retries() -> None:
    look = seen(ended=True, **OUTGROWN)
    plan = reconcile(run_observed(flow_run(running()), attempts=(look,), record=journal(told(1, retries_left=1))))
    written = status(plan)
    assert (written["phase"], written.get("infrastructureLosses", 0)) == ("Scheduled", 0)
    assert written["diagnosis"]["category"] == "OOMKilled"
    assert "retry 1 of 1" in actions(plan, EmitEvent)[0].message


@pytest.mark.parametrize(("earlier", "retries_left"), [(0, 0), (1, 1), (3, 2)])
def test_without_a_retry_left_it_crashes_at_once(earlier: int, retries_left: int) -> None:
    before = [lost(number) | {"reason": "OOMKilled"} for number in range(1, earlier + 1)]
    run = flow_run({"phase": "Running", "attempts": [*before, attempt(earlier + 1)]})
    record = journal(*(told(number, retries_left=retries_left) for number in range(1, earlier + 2)))
    look = seen(earlier + 1, ended=True, **OUTGROWN)
    plan = reconcile(run_observed(run, attempts=(look,), record=record))
    assert (status(plan)["phase"], status(plan)["diagnosis"]["category"]) == ("Crashed", "OOMKilled")


def test_one_that_did_not_come_to_its_flow_spends_the_other_budget() -> None:
    look = seen(ended=True, **OUTGROWN)
    plan = reconcile(run_observed(flow_run(running()), attempts=(look,), record=journal()))
    assert (status(plan)["phase"], status(plan)["infrastructureLosses"]) == ("Scheduled", 1)


@pytest.mark.parametrize(("losses", "delay"), [(1, 1), (2, 2), (3, 4), (4, 8)])
def test_each_loss_doubles_the_wait(losses: int, delay: int) -> None:
    ended = [lost(number, seconds=0) for number in range(1, losses + 1)]
    run = flow_run({"phase": "Scheduled", "attempts": ended, "infrastructureLosses": losses})
    assert reconcile(run_observed(run)).requeue_at == at(delay)


def test_the_wait_is_a_minute_at_most() -> None:
    run = flow_run({"phase": "Scheduled", "attempts": [lost(number, seconds=0) for number in range(1, 20)]})
    assert reconcile(run_observed(run)).requeue_at == at(60)


def test_the_next_attempt_follows_the_wait() -> None:
    run = flow_run({"phase": "Scheduled", "attempts": [lost(1)], "infrastructureLosses": 1})
    plan = reconcile(run_observed(run, place="granted", record=journal(told(1))))
    assert [start.request.job for start in actions(plan, StartAttempt)] == ["run-2"]


def test_more_losses_than_the_budget_crash_the_run() -> None:
    run = flow_run({"phase": "Running", "attempts": [lost(1), lost(2), attempt(3)], "infrastructureLosses": 2})
    budget = deployment(infrastructureRetries=2)
    plan = reconcile(
        run_observed(run, deployment=budget, attempts=(gone(3),), record=journal(told(1), told(2), told(3)))
    )
    assert (status(plan)["phase"], status(plan)["infrastructureLosses"]) == ("Crashed", 3)
    assert kinds(plan)[0] is DeclareEnd


@pytest.mark.parametrize(
    ("look", "record"),
    [
        (seen(running=True), Record((told(1, "HandedBack"),))),
        (seen(ended=True, exit_code=75), journal(told(1))),
        (seen(ended=True, exit_code=75), journal()),
    ],
)
def test_a_hand_back_spends_nothing_and_goes_on_at_once(look: AttemptObservation, record: Record) -> None:
    plan = reconcile(run_observed(flow_run(running()), attempts=(look,), record=record))
    assert status(plan)["attempts"][0]["outcome"] == "HandedBack"
    assert status(plan)["infrastructureLosses"] == 0
    assert len(actions(plan, AskPlace)) == 1


def test_hand_backs_in_a_row_are_slowed_down() -> None:
    ended = [attempt(number, outcome="HandedBack", finishedAt=text(0)) for number in (1, 2, 3)]
    assert reconcile(run_observed(flow_run({"phase": "Scheduled", "attempts": ended}))).requeue_at == at(2)


def test_a_wrong_command_line_is_not_tried_again() -> None:
    look = seen(ended=True, exit_code=2)
    plan = reconcile(run_observed(flow_run(running()), attempts=(look,), record=journal()))
    assert (status(plan)["phase"], status(plan)["diagnosis"]["category"]) == ("Crashed", "ConfigError")


def test_a_recorded_attempt_that_was_never_launched_is_launched_under_its_name() -> None:
    run = flow_run({"phase": "Scheduled", "attempts": [attempt()]})
    assert reconcile(run_observed(run, attempts=(gone(),))) == RunPlan(needs_journal=True)
    plan = reconcile(run_observed(run, attempts=(gone(),), record=journal()))
    assert [start.request.job for start in actions(plan, StartAttempt)] == ["run-1"]


def test_a_recorded_attempt_that_began_and_is_gone_is_lost_whatever_the_phase_says() -> None:
    run = flow_run({"phase": "Scheduled", "attempts": [attempt()]})
    plan = reconcile(run_observed(run, attempts=(gone(),), record=journal(told(1))))
    assert status(plan)["attempts"][0]["outcome"] == "Lost"


def test_a_refused_launch_ends_the_run_with_the_words_of_who_refused() -> None:
    run = flow_run({"phase": "Scheduled", "attempts": [attempt()]})
    plan = reconciler.launch_refused(run_observed(run), "spec.template: unknown field 'imge'", NOW)
    assert (status(plan)["phase"], status(plan)["diagnosis"]["category"]) == ("Crashed", "ConfigError")
    assert "imge" in status(plan)["message"]


@pytest.mark.parametrize("category", ["QuotaExceeded", "ConfigError"])
def test_a_launch_that_may_be_made_later_is_told_and_made_later(category: Any) -> None:
    recorded = {"phase": "Scheduled", "attempts": [attempt()]}
    plan = reconciler.launch_delayed(run_observed(flow_run(recorded)), "the server's words", NOW, category=category)
    assert status(plan)["diagnosis"]["category"] == category
    assert "the server's words" in status(plan)["message"]
    assert condition(status(plan), "Degraded") == ("True", category)
    plan = reconcile(run_observed(flow_run(status(plan)), attempts=(gone(),), record=journal()))
    assert [start.request.job for start in actions(plan, StartAttempt)] == ["run-1"]
