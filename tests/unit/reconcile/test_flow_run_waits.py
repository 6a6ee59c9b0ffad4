"""An attempt that waits for the cluster, a process that does not go, a name that is taken, a pod that lingers."""

from __future__ import annotations

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
    pool,
    run_observed,
    seen,
    status,
    text,
    told,
)

from kapstan.ports import AttemptObservation
from kapstan.reconcile.kinds.flow_run import decision
from kapstan.reconcile.kinds.flow_run.actions import RemoveAttempt, StartAttempt, StopAttempt
from kapstan.reconcile.kinds.flow_run.observed import Record
from kapstan.reconcile.kinds.flow_run.plan import RunPlan
from kapstan.reconcile.kinds.work_pool.actions import AskPlace
from kapstan.reconcile.plan import EmitEvent

OPEN = {"phase": "Pending", "attempts": [attempt(1)]}
RUNNING = {"phase": "Running", "attempts": [attempt(1)]}


def reconcile(before: dict[str, Any], look: AttemptObservation, record: Record = Record(), **fields: Any) -> RunPlan:  # noqa: B008
    spec = fields.pop("spec", {})
    return decision.reconcile(run_observed(flow_run(before, **spec), attempts=(look,), record=record, **fields), NOW)


# ---------------------------------------------------------------------------------------------- room in the cluster

DAY = text(-86_400)


@pytest.mark.parametrize("reason", ["Unschedulable", "SchedulingGated", "QuotaExceeded"])
def test_who_waits_for_room_waits_as_long_as_it_takes(reason: str) -> None:
    plan = reconcile(OPEN, seen(created_at=DAY, reason=reason, message="0/3 nodes"))
    assert actions(plan, StopAttempt) == []
    assert status(plan)["phase"] == "Pending"
    category = "QuotaExceeded" if reason == "QuotaExceeded" else "Unschedulable"
    assert condition(status(plan), "Degraded") == ("True", category)


@pytest.mark.parametrize("reason", ["Unschedulable", "QuotaExceeded"])
def test_a_deadline_that_the_pool_sets_counts_the_wait_for_room(reason: str) -> None:
    limited = pool(deadlines={"pendingSeconds": 3600})
    plan = reconcile(OPEN, seen(created_at=text(-3600), reason=reason), pool=limited)
    assert len(actions(plan, StopAttempt)) == 1
    assert status(plan)["attempts"][0]["reason"] == "DeadlinePending"


def test_what_has_a_node_and_does_not_start_has_ten_minutes_from_then() -> None:
    pulling = {"created_at": DAY, "reason": "ImagePullBackOff"}
    assert actions(reconcile(OPEN, seen(placed_at=text(-599), **pulling)), StopAttempt) == []
    assert len(actions(reconcile(OPEN, seen(placed_at=text(-600), **pulling)), StopAttempt)) == 1


# ---------------------------------------------------------------------------------------------- a lost node

STUCK = {"running": True, "stopping": True, "stop_by": text(-61)}


def test_a_process_that_does_not_go_after_its_grace_is_lost_and_another_one_takes_over() -> None:
    assert reconcile(RUNNING, seen(**STUCK)) == RunPlan(needs_journal=True)
    plan = reconcile(RUNNING, seen(**STUCK), journal(told(1)))
    lost = status(plan)["attempts"][0]
    assert (lost["outcome"], status(plan)["infrastructureLosses"]) == ("Lost", 1)
    assert status(plan)["diagnosis"]["category"] == "NodeLost"
    later = decision.reconcile(
        run_observed(flow_run(status(plan)), attempts=(seen(**STUCK),), record=journal(told(1)), place="granted"),
        at(2),
    )
    assert actions(later, StartAttempt)[0].request.attempt == 2


def test_it_is_waited_for_until_a_minute_after_its_grace() -> None:
    plan = reconcile(RUNNING, seen(running=True, stopping=True, stop_by=text(-10)))
    assert "outcome" not in status(plan)["attempts"][0]
    assert plan.requeue_at == at(50)


def test_its_pool_says_how_long_it_is_waited_for() -> None:
    patient = pool(deadlines={"unreachableSeconds": 3600})
    assert reconcile(RUNNING, seen(**STUCK), pool=patient).requeue_at == at(60)  # as any run that is left alone
    hasty = pool(deadlines={"unreachableSeconds": 1})
    silent = seen(running=True, stopping=True, stop_by=text(-2))
    assert reconcile(RUNNING, silent, pool=hasty) == RunPlan(needs_journal=True)
    assert status(reconcile(RUNNING, silent, journal(told(1)), pool=hasty))["attempts"][0]["outcome"] == "Lost"


def test_its_own_word_counts_however_late() -> None:
    plan = reconcile(RUNNING, seen(**STUCK), journal(told(1, "Completed")))
    assert status(plan)["phase"] == "Completed"


def test_nothing_is_decided_while_its_journal_cannot_be_read() -> None:
    plan = reconcile(RUNNING, seen(**STUCK), Record(unreachable="MinIO is away"))
    assert status(plan)["phase"] == "Running"
    assert condition(status(plan), "Degraded") == ("True", "StoreUnavailable")


@pytest.mark.parametrize(("seconds", "says"), [(3, False), (-4, False), (-6, True), (-59, True)])
def test_why_nothing_goes_on_is_told_with_the_way_on(seconds: float, says: bool) -> None:
    silent = seen(running=True, stopping=True, stop_by=text(seconds), pod="run-1-x", node="far")
    plan = reconcile(RUNNING, silent)
    assert actions(plan, StartAttempt) == []
    degraded = condition(status(plan), "Degraded")
    assert degraded == (("True", "NodeLost") if says else ("False", "AsExpected"))
    assert plan.requeue_at == at(seconds + (60 if says else 5))
    if says:
        found = status(plan)["diagnosis"]
        assert "run-1-x on node far should have ended by" in found["message"]
        assert f"before {text(seconds + 60)}" in found["message"]
        assert "kubectl delete pod run-1-x --force --grace-period=0" in found["resolution"]
        assert found["message"] in status(plan)["message"]


def test_a_cancelled_run_on_a_lost_node_ends() -> None:
    plan = reconcile(RUNNING, seen(**STUCK), journal(told(1)), spec={"cancel": True})
    assert status(plan)["phase"] == "Cancelled"


# ---------------------------------------------------------------------------------------------- a name that is taken


def test_a_name_that_is_taken_is_told_gives_the_place_back_and_another_name_is_tried() -> None:
    observed = run_observed(flow_run({"phase": "Scheduled", "attempts": [attempt(1)]}))
    plan = decision.name_taken(observed, "a Job shop/run-1 is there that does not belong to it", NOW)
    over = status(plan)["attempts"][0]
    assert (over["outcome"], over["reason"], over["finishedAt"]) == ("HandedBack", "NameTaken", text(0))
    assert condition(status(plan), "Degraded") == ("True", "NameTaken")
    assert status(plan)["diagnosis"]["category"] == "NameTaken"
    assert [event.reason for event in actions(plan, EmitEvent)] == ["NameTaken"]
    assert len(actions(plan, AskPlace)) == 1
    assert status(plan)["infrastructureLosses"] == 0
    again = run_observed(flow_run(status(plan)), place="granted", record=journal())
    assert actions(decision.reconcile(again, NOW), StartAttempt)[0].request.job == "run-2"


# ---------------------------------------------------------------------------------------------- grace and sidecars


@pytest.mark.parametrize(("template", "grace"), [({}, 30.0), ({"spec": {"terminationGracePeriodSeconds": 900}}, 900.0)])
def test_a_cancel_gives_the_grace_of_the_pods_template(template: dict[str, Any], grace: float) -> None:
    asked = pool(podTemplate=template)
    plan = reconcile(RUNNING, seen(running=True), pool=asked, spec={"cancel": True})
    assert [action.grace for action in actions(plan, StopAttempt)] == [grace]


def test_a_sidecar_does_not_keep_the_pod_of_a_finished_run() -> None:
    over = {"phase": "Completed", "attempts": [attempt(1, outcome="Completed", finishedAt=text(-30))]}
    assert len(actions(reconcile(over, seen(ended=True, lingers=True)), RemoveAttempt)) == 1
    assert actions(reconcile(over, seen(ended=True)), RemoveAttempt) == []
