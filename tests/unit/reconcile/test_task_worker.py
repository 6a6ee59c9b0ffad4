"""As many members as are wanted; who goes leaves empty-handed."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.reconcile.builders import (
    NOW,
    actions,
    at,
    condition,
    member,
    session,
    status,
    task_worker,
    workers_observed,
)

from kapstan.ports import SessionInfo, WorkerMember
from kapstan.reconcile.kinds.task_worker import decision as reconciler
from kapstan.reconcile.kinds.task_worker.actions import (
    DrainMember,
    EnsureWorkers,
    ExpireSession,
    SetDeletionCost,
    SetReplicas,
)
from kapstan.reconcile.plan import EmitEvent, Plan

THREE = [member("a"), member("b"), member("c")]


def reconcile(
    replicas: int, members: list[WorkerMember], sessions: list[SessionInfo] | None, wanted: int, **fields: Any
) -> Plan:
    spec = fields.pop("spec", {})
    return reconciler.reconcile(
        workers_observed(task_worker(replicas, **spec), members, sessions, wanted, **fields), NOW
    )


def ensured(plan: Plan) -> list[int]:
    return [action.request.replicas for action in actions(plan, EnsureWorkers)]


def drained(plan: Plan) -> list[str]:
    return [action.member for action in actions(plan, DrainMember)]


@pytest.mark.parametrize(("replicas", "wanted"), [(3, 0), (3, 2), (3, 3), (0, 0)])
def test_up_is_at_once_and_said_at_every_look(replicas: int, wanted: int) -> None:
    assert ensured(reconcile(replicas, THREE[:wanted], [], wanted)) == [replicas]


def test_who_goes_is_drained_first_and_the_number_stays() -> None:
    sessions = [session("a", 1), session("b"), session("c", 2)]
    plan = reconcile(2, THREE, sessions, 3)
    assert drained(plan) == ["b"]
    assert [(action.member, action.cost) for action in actions(plan, SetDeletionCost)] == [("b", -100)]
    assert ensured(plan) == []
    assert plan.requeue_at == at(0.5)


def test_a_changed_template_is_rolled_out_although_somebody_goes() -> None:
    changed = task_worker(2, {"observedGeneration": 0})
    plan = reconciler.reconcile(workers_observed(changed, THREE, [session("a", 1)], 3), NOW)
    assert ensured(plan) == [3]


def test_the_newest_goes_where_nobody_or_everybody_is_idle() -> None:
    assert drained(reconcile(2, THREE, [session("a"), session("b"), session("c")], 3)) == ["c"]


def test_a_member_that_serves_nothing_yet_goes_before_an_idle_one() -> None:
    members = [member("a", ready=False), member("b")]
    assert drained(reconcile(1, members, [session("b")], 2)) == ["a"]


def test_a_busy_member_that_drains_is_waited_for() -> None:
    members = [member("a"), member("b", deletion_cost=-100)]
    plan = reconcile(1, members, [session("a"), session("b", 1, draining=True)], 2, draining_since={"b": at(-9)})
    assert (drained(plan), ensured(plan)) == ([], [])
    assert status(plan)["drainingReplicas"] == 1


def test_an_empty_one_is_named_before_the_number_falls_by_one() -> None:
    members = [member("a"), member("b", deletion_cost=-100), member("c", deletion_cost=-100)]
    sessions = [session("a"), session("b", 1, draining=True), session("c", draining=True)]
    plan = reconcile(1, members, sessions, 3, draining_since={"b": at(-9), "c": at(-9)})
    order = [action for action in plan.actions if isinstance(action, SetDeletionCost | EnsureWorkers)]
    assert [type(action) for action in order] == [SetDeletionCost, EnsureWorkers]
    assert (actions(plan, SetDeletionCost)[0].member, actions(plan, SetDeletionCost)[0].cost) == ("c", -1000)
    assert ensured(plan) == [2]


def test_the_number_does_not_fall_again_before_the_one_that_goes_has_begun_to_go() -> None:
    members = [member("a"), member("b", deletion_cost=-100), member("c", deletion_cost=-1000)]
    sessions = [session("a"), session("b", 1, draining=True), session("c", draining=True)]
    plan = reconcile(1, members, sessions, 2, draining_since={"b": at(-9), "c": at(-9)})
    assert ensured(plan) == []


STUCK = member("new", ready=False, message="ImagePullBackOff: no such image")
"""The surge of a rollout that never becomes ready."""


def test_a_stuck_rollout_does_not_hold_up_a_scale_down() -> None:
    members, sessions = [member("a"), member("b"), STUCK], [session("a"), session("b")]
    plan = reconcile(1, members, sessions, 2)
    assert drained(plan) == ["new", "b"], "what serves nothing goes first"
    members = [member("a"), member("b"), member("new", ready=False, deletion_cost=-100)]
    plan = reconcile(1, members, sessions, 2, draining_since={"new": at(-1)})
    assert ensured(plan) == [1]


def test_a_stuck_rollout_does_not_hold_up_a_suspend() -> None:
    members = [member("a", deletion_cost=-100), member("new", ready=False, deletion_cost=-1000)]
    sessions = [session("a", draining=True)]
    plan = reconcile(2, members, sessions, 1, draining_since={"a": at(-1), "new": at(-1)}, spec={"suspend": True})
    assert ensured(plan) == [], "the one that was named has not gone yet"
    members = [member("a", deletion_cost=-100), member("b", deletion_cost=-100), *members[1:]]
    plan = reconcile(2, members, sessions, 1, draining_since={"a": at(-1), "b": at(-1)}, spec={"suspend": True})
    assert ensured(plan) == [0], "the rollout goes on without it: the next one goes"


def test_workers_that_are_refused_are_told_once() -> None:
    observed = workers_observed(task_worker(1), [], [], 0)
    plan = reconciler.refused(observed, "it belongs to somebody else", NOW)
    assert condition(status(plan), "Degraded") == ("True", "Refused")
    assert [event.message for event in actions(plan, EmitEvent)] == ["it belongs to somebody else"]
    again = workers_observed(task_worker(1, status(plan)), [], [], 0)
    assert reconciler.refused(again, "it belongs to somebody else", NOW) == Plan()


def test_an_overdue_drain_is_ended() -> None:
    members = [member("a"), member("b", deletion_cost=-100)]
    sessions = [session("a"), session("b", 1, draining=True)]
    spec = {"drain": {"timeoutSeconds": 60}}
    early = reconcile(1, members, sessions, 2, draining_since={"b": at(-59)}, spec=spec)
    late = reconcile(1, members, sessions, 2, draining_since={"b": at(-60)}, spec=spec)
    assert (ensured(early), ensured(late)) == ([], [1])


def test_members_that_are_not_there_are_not_waited_for() -> None:
    assert ensured(reconcile(1, [member("a")], [session("a")], 3)) == [2]


def test_nobody_is_taken_away_while_redis_is_away() -> None:
    plan = reconcile(1, THREE, None, 3, unreachable="no answer in 30 s")
    assert (drained(plan), ensured(plan)) == ([], [])
    assert condition(status(plan), "Degraded") == ("True", "QueueUnavailable")
    assert ensured(reconcile(5, THREE, None, 3)) == [5]


def test_suspend_takes_everybody_away_drained() -> None:
    plan = reconcile(2, THREE[:2], [session("a"), session("b")], 2, spec={"suspend": True})
    assert sorted(drained(plan)) == ["a", "b"]
    assert condition(status(plan), "Ready") == ("False", "Suspended")


@pytest.mark.parametrize(("replicas", "expected"), [(0, 2), (3, 3), (9, 4)])
def test_autoscaling_keeps_replicas_within_its_bounds_for_now(replicas: int, expected: int) -> None:
    plan = reconcile(replicas, [], [], 0, spec={"autoscaling": {"minReplicas": 2, "maxReplicas": 4}})
    assert ensured(plan) == [expected]
    assert [action.replicas for action in actions(plan, SetReplicas)] == ([expected] if expected != replicas else [])
    assert condition(status(plan), "ScalingActive") == ("False", "NotYet")


def test_the_sessions_of_a_dead_member_end_at_once() -> None:
    plan = reconcile(1, [member("a")], [session("a")], 1, gone={"b": None, "a": 2})
    assert [(action.session_prefix, action.boot) for action in actions(plan, ExpireSession)] == [("b", None), ("a", 2)]
    assert plan.actions[0] == actions(plan, ExpireSession)[0]


def test_status_counts() -> None:
    members = [member("a"), member("b", ready=False, message="ErrImagePull: no such image"), member("c", ending=True)]
    written = status(reconcile(2, members, [session("a", 1)], 2))
    shown = ("replicas", "readyReplicas", "busyReplicas", "drainingReplicas", "selector")
    assert [written[field] for field in shown] == [2, 1, 1, 0, "worker=mailer"]
    assert condition(written, "Ready") == ("False", "MembersNotReady")
    assert "ErrImagePull" in next(c["message"] for c in written["conditions"] if c["type"] == "Degraded")


def test_members_that_are_refused_are_told_in_the_words_of_who_refused() -> None:
    observed = workers_observed(task_worker(2), [], [], 0)
    told = status(reconciler.refused(observed, "podTemplate: unknown field 'nodeselector'", NOW))
    assert condition(told, "Ready") == ("False", "Refused")
    assert condition(told, "Degraded") == ("True", "Refused")
    assert {c["message"] for c in told["conditions"] if c["type"] != "Progressing"} == {
        "podTemplate: unknown field 'nodeselector'"
    }


def test_members_that_cannot_be_made_are_told_why() -> None:
    plan = reconcile(2, [], [], 2, problem="exceeded quota: pods=0")
    assert condition(status(plan), "Degraded") == ("True", "MembersNotReady")
    assert "exceeded quota" in str(status(plan)["conditions"])
