"""Who of those that wait may start."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.unit.reconcile.builders import NOW, actions, at, brief, condition, deployment, pool, pool_observed, status

from kapstan.reconcile.brief import RunBrief
from kapstan.reconcile.kinds.work_pool import decision as work_pool
from kapstan.reconcile.kinds.work_pool.actions import Grant, SpendTokens
from kapstan.reconcile.kinds.work_pool.places import Tokens
from kapstan.reconcile.plan import Plan


def granted(plan: Plan) -> list[str]:
    return [grant.run.name for grant in actions(plan, Grant)]


@pytest.mark.parametrize(
    ("spec", "runs", "waiting", "expected"),
    [
        ({}, [brief("a", seconds=-1), brief("b", seconds=-9)], "a b", ["b", "a"]),
        ({"concurrency": {"maxInFlight": 1}}, [brief("a"), brief("b", seconds=-99)], "a b", ["b"]),
        ({"concurrency": {"maxInFlight": 1}}, [brief("a", "Running", in_flight=True), brief("b")], "b", []),
        ({"concurrency": {"maxInFlight": 2}}, [brief("a", "Running", in_flight=True), brief("b")], "b", ["b"]),
        ({"suspend": True}, [brief("a")], "a", []),
        ({}, [brief("a")], "", []),
        ({"queues": [{"name": "default", "limit": 1}]}, [brief("a", "Running", in_flight=True), brief("b")], "b", []),
    ],
)
def test_who_may_start(spec: dict[str, Any], runs: list[RunBrief], waiting: str, expected: list[str]) -> None:
    assert granted(work_pool.reconcile(pool_observed(pool(**spec), runs, waiting), NOW)) == expected


def test_a_run_is_due_before_one_that_was_created_earlier_for_later() -> None:
    runs = [brief("later", scheduled=at(0)), brief("sooner", seconds=-5, scheduled=at(-30))]
    observed = pool_observed(pool(concurrency={"maxInFlight": 1}), runs, "later sooner")
    assert granted(work_pool.reconcile(observed, NOW)) == ["sooner"]


def test_a_queue_of_lower_number_goes_first() -> None:
    both = {"nightly": deployment(queue="slow"), "urgent": deployment(queue="fast")}
    runs = [brief("old", seconds=-900), brief("new", seconds=-1, deployment="urgent")]
    queues = [{"name": "slow", "priority": 5}, {"name": "fast", "priority": 1}]
    observed = pool_observed(pool(queues=queues, concurrency={"maxInFlight": 1}), runs, "old new", deployments=both)
    assert granted(work_pool.reconcile(observed, NOW)) == ["new"]


@pytest.mark.parametrize("policy", ["Queue", "Replace", "Forbid"])
def test_a_deployment_at_its_limit_lets_others_pass(policy: str) -> None:
    both = {"nightly": deployment(concurrency={"limit": 1, "policy": policy}), "other": deployment()}
    runs = [brief("a", "Running", in_flight=True), brief("b", seconds=-9), brief("c", seconds=-1, deployment="other")]
    assert granted(work_pool.reconcile(pool_observed(pool(), runs, "b c", deployments=both), NOW)) == ["c"]


def test_what_was_granted_counts_although_nothing_shows_it_yet() -> None:
    runs = [brief("a"), brief("b")]
    observed = pool_observed(pool(concurrency={"maxInFlight": 1}), runs, "b", granted=frozenset({runs[0].key}))
    plan = work_pool.reconcile(observed, NOW)
    assert granted(plan) == []
    assert (status(plan)["inFlight"], status(plan)["queued"]) == (1, 1)


def test_launches_are_paced() -> None:
    runs = [brief(f"r{number}", seconds=-number) for number in range(9)]
    names = " ".join(run.key.name for run in runs)
    paced = pool(concurrency={"launchesPerSecond": 2.0})
    plan = work_pool.reconcile(pool_observed(paced, runs, names), NOW)
    assert len(granted(plan)) == 2
    assert plan.requeue_at == at(0.5)
    spent = actions(plan, SpendTokens)[0]
    half_a_second_later = Tokens(spent.left, spent.at - timedelta(seconds=0.5))
    plan = work_pool.reconcile(pool_observed(paced, runs, names, tokens=half_a_second_later), NOW)
    assert len(granted(plan)) == 1


def test_a_process_pool_that_nobody_serves_says_what_it_needs() -> None:
    plan = work_pool.reconcile(pool_observed(pool(type="process"), [brief("a")], "a", served=False), NOW)
    assert granted(plan) == []
    assert condition(status(plan), "NeedsProcessWorker") == ("True", "NotServed")
    assert "kapstan worker start --pool pool" in status(plan)["conditions"][0]["message"]


def test_what_a_worker_wrote_about_its_pool_is_left_alone() -> None:
    served = status(work_pool.reconcile(pool_observed(pool(type="process"), [brief("a", in_flight=True)]), NOW))
    again = pool(served, type="process")
    assert work_pool.reconcile(pool_observed(again, [], served=False), NOW).actions == ()


def test_a_worker_that_ends_says_so() -> None:
    served = status(work_pool.reconcile(pool_observed(pool(type="process"), []), NOW))
    assert condition(served, "NeedsProcessWorker") == ("False", "Served")
    assert condition(status(work_pool.unserved(pool(served, type="process"), NOW)), "NeedsProcessWorker")[0] == "True"


def test_nothing_new_writes_nothing() -> None:
    first = status(work_pool.reconcile(pool_observed(pool(), []), NOW))
    assert work_pool.reconcile(pool_observed(pool(first), []), NOW) == Plan()
