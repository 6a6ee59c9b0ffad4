"""What a TaskWorker says of runs whose effect is in doubt, and how often the queue is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.unit.reconcile.builders import (
    NOW,
    actions,
    condition,
    member,
    session,
    status,
    task_worker,
    workers_observed,
)

from kapstan import ids
from kapstan.ids import Token, new_id
from kapstan.ports import RunRecord
from kapstan.reconcile.kinds.task_worker import decision
from kapstan.reconcile.kinds.task_worker.parked import MOST, ParkedLooks, told
from kapstan.reconcile.plan import EmitEvent, Plan, SetStatus


def parked_run() -> RunRecord:
    return RunRecord(new_id(), "shop.tasks:send", "default", "parked", Token(1, 1), 1, 0, b"", key="k" * 52)


def plan_of(parked: tuple[RunRecord, ...] | None, before: dict[str, Any] | None = None) -> Plan:
    worker = task_worker(1, before)
    return decision.reconcile(workers_observed(worker, [member("a")], [session("a")], 1, parked=parked), NOW)


def events(plan: Plan) -> list[str]:
    return [event.message for event in actions(plan, EmitEvent) if event.reason == "Parked"]


def names(plan: Plan) -> list[str]:
    return [one["type"] for one in status(plan)["conditions"]]


def test_it_says_so_once_for_each_that_is_new_and_nothing_when_all_are_decided() -> None:
    first, second = parked_run(), parked_run()
    plan = plan_of((first,))
    assert condition(status(plan), "EffectsInDoubt") == ("True", "Parked")
    (message,) = events(plan)
    assert str(ids.to_uuid(first.run_id)) in message
    assert "shop.tasks:send" in message
    again = plan_of((first,), status(plan))
    assert (events(again), actions(again, SetStatus)) == ([], []), "nothing new, and nothing is written"
    more = plan_of((second, first), status(plan))
    assert len(events(more)) == 1
    unknown = plan_of(None, status(more))
    assert actions(unknown, SetStatus) == [], "what cannot be asked changes nothing"
    over = plan_of((), status(more))
    assert "EffectsInDoubt" not in names(over)
    assert events(over) == []


def test_nothing_is_said_where_nothing_is_parked() -> None:
    assert "EffectsInDoubt" not in names(plan_of(()))
    assert "100 or more" in told(tuple(parked_run() for _ in range(MOST)))


def test_a_task_with_a_name_of_any_length_is_told_of_once() -> None:
    run = replace(parked_run(), task="\udcff" * 9000)
    plan = plan_of((run,))
    assert len(events(plan)) == 1
    again = plan_of((run,), status(plan))
    assert (events(again), actions(again, SetStatus)) == ([], [])


def test_a_namespace_is_asked_once_a_minute() -> None:
    now = 0.0
    looks = ParkedLooks(lambda: now)
    assert looks.is_due("shop")
    looks.keep("shop", (parked_run(),))
    now = 59.0
    assert not looks.is_due("shop")
    assert looks.is_due("other")
    now = 60.0
    assert looks.is_due("shop")
    looks.keep("shop", None)
    assert looks.of("shop") is None
