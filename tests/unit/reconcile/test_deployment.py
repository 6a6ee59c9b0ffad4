"""Runs by schedule: made once, made up for, let go."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.unit.reconcile.builders import (
    NOW,
    actions,
    at,
    brief,
    condition,
    deployment,
    deployment_observed,
    status,
    text,
)

from kapstan.reconcile.kinds.deployment import decision as reconciler
from kapstan.reconcile.kinds.deployment.actions import CancelRun, CreateRun, DeleteRun
from kapstan.reconcile.naming import scheduled_run_name
from kapstan.reconcile.plan import EmitEvent, Plan

EVERY_MINUTE = {"name": "minutely", "cron": "* * * * *"}


def seen_last(seconds: float, name: str = "minutely") -> dict[str, Any]:
    return {"observedGeneration": 1, "schedules": [{"name": name, "lastScheduleTime": text(seconds)}]}


def moments(plan: Plan) -> list[float]:
    """Of the runs that are made, seconds from now."""
    made = [action.manifest["spec"]["scheduledTime"] for action in actions(plan, CreateRun)]
    known = {text(seconds): seconds for seconds in range(-3600, 1)}
    return [known[moment] for moment in made]


def reconcile(status_: dict[str, Any] | None = None, *runs: Any, **spec: Any) -> Plan:
    return reconciler.reconcile(deployment_observed(deployment(status_, **spec), *runs), NOW)


def test_a_moment_makes_a_run_with_a_name_that_follows_from_it() -> None:
    plan = reconcile(seen_last(-60), schedules=[{**EVERY_MINUTE, "parameters": {"x": 1}}])
    made = actions(plan, CreateRun)[0].manifest
    assert made["metadata"]["name"] == scheduled_run_name("nightly", "minutely", NOW) == "nightly-minutely-1772452800"
    assert made["metadata"]["labels"] == {"kapstan.dev/deployment": "nightly", "kapstan.dev/schedule": "minutely"}
    assert made["metadata"]["ownerReferences"][0]["uid"] == "uid-nightly"
    assert made["spec"] == {"deploymentRef": {"name": "nightly"}, "scheduledTime": text(0), "parameters": {"x": 1}}
    assert plan.requeue_at == at(60)
    assert status(plan)["nextRuns"] == [text(60), text(120), text(180)]
    assert status(plan)["schedules"][0]["lastScheduleTime"] == text(0)


def test_a_run_that_is_there_is_not_made_again() -> None:
    there = brief(scheduled_run_name("nightly", "minutely", NOW), "Running")
    assert moments(reconcile(seen_last(-60), there, schedules=[EVERY_MINUTE])) == []


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, [0]),
        ({"missedRuns": {"policy": "Skip"}}, [0]),
        ({"missedRuns": {"policy": "RunAll", "max": 2}}, [-120, -60, 0]),
        ({"missedRuns": {"policy": "RunAll"}}, [-240, -180, -120, -60, 0]),
        ({"missedRuns": {"policy": "RunAll"}, "startingDeadlineSeconds": 90}, [-60, 0]),
    ],
)
def test_missed_moments(spec: dict[str, Any], expected: list[float]) -> None:
    assert moments(reconcile(seen_last(-300), schedules=[EVERY_MINUTE], **spec)) == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, [-1200]),
        ({"missedRuns": {"policy": "Skip"}}, []),
        ({"startingDeadlineSeconds": 600}, []),
        ({"startingDeadlineSeconds": 1500}, [-1200]),
    ],
)
def test_a_moment_that_was_missed_by_far(spec: dict[str, Any], expected: list[float]) -> None:
    hourly = {"name": "hourly", "interval": 3600, "anchor": text(-1200)}
    plan = reconcile(seen_last(-3500, "hourly"), schedules=[hourly], **spec)
    assert moments(plan) == expected
    assert status(plan)["schedules"][0]["lastScheduleTime"] == text(-1200)


@pytest.mark.parametrize("suspended", [{"suspend": True}, {"schedules": [{**EVERY_MINUTE, "suspend": True}]}])
def test_what_is_suspended_lets_its_moments_go(suspended: dict[str, Any]) -> None:
    plan = reconcile(seen_last(-300), **{"schedules": [EVERY_MINUTE], **suspended})
    assert moments(plan) == []
    assert status(plan)["nextRuns"] == []
    assert plan.requeue_at == at(60)
    resumed = reconcile(status(plan), schedules=[EVERY_MINUTE])
    assert moments(resumed) == []


def test_a_schedule_that_is_added_makes_nothing_up() -> None:
    plan = reconcile({"observedGeneration": 1}, schedules=[EVERY_MINUTE])
    assert moments(plan) == []
    (seen,) = status(plan)["schedules"]
    assert (seen["name"], seen["lastScheduleTime"]) == ("minutely", text(0))


@pytest.mark.parametrize(
    "edit", [{"cron": "*/5 * * * *"}, {"timezone": "Europe/Berlin"}, {"cron": None, "interval": 60}]
)
def test_an_edited_schedule_makes_nothing_for_the_past(edit: dict[str, Any]) -> None:
    """Its new moments passed while it said something else."""
    before = status(reconcile(seen_last(0), schedules=[{"name": "minutely", "cron": "0 0 1 1 *"}]))
    before["schedules"][0]["lastScheduleTime"] = text(-3600)
    edited = {key: value for key, value in {**EVERY_MINUTE, **edit}.items() if value is not None}
    plan = reconcile(before, schedules=[edited], missedRuns={"policy": "RunAll"})
    assert moments(plan) == []
    assert status(plan)["schedules"][0]["lastScheduleTime"] == text(0)


def test_a_schedule_whose_parameters_change_misses_nothing() -> None:
    before = status(reconcile(seen_last(-60), schedules=[EVERY_MINUTE]))
    before["schedules"][0]["lastScheduleTime"] = text(-120)
    assert moments(reconcile(before, schedules=[{**EVERY_MINUTE, "parameters": {"x": 2}}])) == [0]


def test_what_goes_goes_before_anything_is_made() -> None:
    """Where a quota of FlowRuns is used up, the old ones are the room for the new one."""
    old = [brief(f"old{number}", "Completed", -number, schedule="s", ended_at=NOW) for number in (1, 2)]
    plan = reconcile(seen_last(-60), *old, schedules=[EVERY_MINUTE], historyLimits={"successful": 1})
    order = [type(action) for action in plan.actions if isinstance(action, CreateRun | DeleteRun)]
    assert order == [DeleteRun, CreateRun]


def test_a_run_that_cannot_be_made_is_told_once() -> None:
    observed = deployment_observed(deployment({}, schedules=[EVERY_MINUTE]))
    plan = reconciler.refused(observed, "exceeded quota: count/flowruns", NOW)
    assert condition(status(plan), "Degraded") == ("True", "RunRefused")
    assert [event.message for event in actions(plan, EmitEvent)] == ["exceeded quota: count/flowruns"]
    again = deployment_observed(deployment(status(plan), schedules=[EVERY_MINUTE]))
    assert reconciler.refused(again, "exceeded quota: count/flowruns", NOW) == Plan()


def test_moments_since_the_creation_count_at_the_first_look() -> None:
    assert moments(reconcile(None, schedules=[EVERY_MINUTE])) == [0]


def test_an_interval_counts_from_the_creation() -> None:
    assert moments(reconcile(None, schedules=[{"name": "s", "interval": 1800}])) == [0]


@pytest.mark.parametrize(
    ("policy", "created", "cancelled"),
    [("Allow", 1, []), ("Forbid", 0, []), ("Queue", 1, []), ("Replace", 1, ["old"])],
)
def test_concurrency(policy: str, created: int, cancelled: list[str]) -> None:
    plan = reconcile(
        seen_last(-60),
        brief("old", "Running", in_flight=True),
        schedules=[EVERY_MINUTE],
        concurrency={"limit": 1, "policy": policy},
    )
    assert len(actions(plan, CreateRun)) == created
    assert [action.run.name for action in actions(plan, CancelRun)] == cancelled
    assert [event.reason for event in actions(plan, EmitEvent)] == (["RunSkipped"] if policy == "Forbid" else [])


def test_replace_cancels_the_oldest_only_and_nobody_twice() -> None:
    runs = [
        brief("older", "Running", -90),
        brief("newer", "Running", -60),
        brief("going", "Running", -99, cancelled=True),
    ]
    plan = reconcile(seen_last(-60), *runs, schedules=[EVERY_MINUTE], concurrency={"limit": 2, "policy": "Replace"})
    assert [action.run.name for action in actions(plan, CancelRun)] == ["older"]


def test_old_runs_are_forgotten_the_oldest_first() -> None:
    made = {"schedule": "s", "ended_at": NOW}
    good = [brief(f"good{number}", "Completed", -number, attempts=((1, "j"),), **made) for number in (1, 2, 3)]
    bad = [brief("bad1", "Failed", -1, **made), brief("bad2", "Crashed", -2, **made)]
    plan = reconcile({}, *good, *bad, historyLimits={"successful": 1, "failed": 1})
    assert [action.run.name for action in actions(plan, DeleteRun)] == ["good3", "good2", "bad2"]
    assert actions(plan, DeleteRun)[0].attempts == ((1, "j"),)
    assert status(plan)["counts"] == {"completed": 1, "failed": 1, "crashed": 0, "cancelled": 0}


def test_what_no_schedule_made_stays_until_its_time_is_over() -> None:
    asked = [brief(f"asked{hours}", "Completed", -9e5, ended_at=at(-3600 * hours)) for hours in range(1, 41)]
    plan = reconcile({}, *asked, historyLimits={"successful": 1, "failed": 1})
    assert actions(plan, DeleteRun) == [], "seven days, whatever the history limits say"
    assert plan.requeue_at == at(-3600 * 40 + 7 * 24 * 3600), "looked at again when the first is over"
    plan = reconcile({}, *asked, ttlSecondsAfterFinished=38 * 3600)
    assert [action.run.name for action in actions(plan, DeleteRun)] == ["asked40", "asked39", "asked38"]
    assert plan.requeue_at == at(3600)
    assert status(plan)["counts"]["completed"] == 37


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ({"cron": "61 * * * *"}, "cron='61 * * * *': Bad minute"),
        ({"cron": "* * * * *", "timezone": "Mars/Base"}, "timezone='Mars/Base' is no time zone"),
        ({"rrule": "FREQ=DAILY"}, "this release reads cron and interval"),
    ],
)
def test_a_schedule_that_cannot_be_read_is_told_and_harms_no_other(schedule: dict[str, Any], words: str) -> None:
    plan = reconcile(seen_last(-60), schedules=[{"name": "bad", **schedule}, EVERY_MINUTE])
    assert moments(plan) == [0]
    assert condition(status(plan), "Ready") == ("False", "InvalidSchedule")
    assert words in next(c["message"] for c in status(plan)["conditions"] if c["type"] == "Ready")


def test_nothing_new_writes_nothing() -> None:
    first = status(reconcile({}, schedules=[EVERY_MINUTE]))
    later = reconciler.reconcile(
        deployment_observed(deployment(first, schedules=[EVERY_MINUTE]), brief(first["lastRun"]["name"], "Scheduled")),
        NOW + timedelta(seconds=1),
    )
    assert actions(later, CreateRun) == []
