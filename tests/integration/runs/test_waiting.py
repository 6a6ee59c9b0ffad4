"""``kapstan task-run`` says for what a queued run waits: a limit, other runs, a pause."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from click.testing import Result
from tests.integration.runs.makers import uuid

from kapstan import ids
from kapstan.backend import Backend
from kapstan.ids import RunId
from kapstan.ports import Lane, Outcome, Submission
from kapstan.run_limits import Limits, RateLimit

Kapstan = Callable[..., Result]
TASK = "shop.tasks:charge"


@pytest.fixture
def serve(backend: Backend) -> Iterator[Callable[..., Lane]]:
    """Opens a worker of one lane that says these limits."""
    opened: list[object] = []

    def serving(limits: Limits) -> Lane:
        session = backend.queue.open_session("shop", [TASK], 1, limits={TASK: limits})
        lane = backend.queue.open_lane(session.name, 0, [TASK])
        opened.extend((lane, session))
        return lane

    yield serving
    for each in opened:
        each.close()  # type: ignore[attr-defined]


def submitted(backend: Backend, **fields: object) -> RunId:
    run_id = ids.new_id()
    backend.queue.submit(Submission(run_id, TASK, b"{}", "same-inputs", **fields))  # type: ignore[arg-type]
    return run_id


def why(kapstan: Kapstan, run_id: RunId) -> str:
    shown = json.loads(kapstan("task-run", "inspect", uuid(run_id), "-o", "json").stdout)["why"]
    listed = {row["id"]: row["why"] for row in json.loads(kapstan("task-run", "ls", "-o", "json").stdout)}
    assert listed[uuid(run_id)] == shown
    return shown


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(concurrency=1), f"waits for a limit: concurrency_limit=1 of {TASK}"),
        (Limits(group_concurrency=1), "waits for a limit: group_concurrency_limit=1 of group 'acme'"),
        (Limits(concurrency=1, group_concurrency=1), f"waits for a limit: concurrency_limit=1 of {TASK}"),
        (Limits(concurrency=2, group_concurrency=2), "waits for a free worker"),
        (Limits(), "waits for a free worker"),
    ],
)
def test_the_limit_that_is_full_is_named(
    backend: Backend, kapstan: Kapstan, serve: Callable[..., Lane], limits: Limits, reason: str
) -> None:
    lane = serve(limits)
    first, second = submitted(backend, group="acme"), submitted(backend, group="acme")
    assert why(kapstan, second) == "waits for a free worker"
    (claim,) = lane.step([], 1).claims
    assert claim.run_id == first
    assert why(kapstan, second) == reason
    lane.step([Outcome(claim.run_id, claim.token, "completed", b"")], 0)
    assert why(kapstan, second) == "waits for a free worker"


@pytest.mark.parametrize("group", ["", "acme"])
def test_a_rate_says_when_the_next_may_begin(
    backend: Backend, kapstan: Kapstan, serve: Callable[..., Lane], group: str
) -> None:
    rate = RateLimit(1, 3600)
    lane = serve(Limits(group_rate=rate) if group else Limits(rate=rate))
    submitted(backend, group=group)
    second = submitted(backend, group=group)
    assert len(lane.step([], 1).claims) == 1
    of = "group_rate_limit of group 'acme'" if group else f"rate_limit of {TASK}"
    assert why(kapstan, second).startswith(f"waits for a limit: {of}, the next may begin in 3")
    row = next(row for row in json.loads(kapstan("task", "ls", "-o", "json").stdout) if row["task"] == TASK)
    assert (row["ready"], row["limited"]) == (1, 1)


def test_a_pause_is_told_before_a_limit(backend: Backend, kapstan: Kapstan, serve: Callable[..., Lane]) -> None:
    lane = serve(Limits(concurrency=1))
    submitted(backend)
    second = submitted(backend)
    assert len(lane.step([], 1).claims) == 1
    backend.queue.pause(TASK)
    assert "is paused" in why(kapstan, second)


def test_the_runs_that_must_complete_are_named(backend: Backend, kapstan: Kapstan) -> None:
    others = [submitted(backend) for _ in range(5)]
    one, many = submitted(backend, after=(others[0],)), submitted(backend, after=tuple(others))
    assert why(kapstan, one) == f"waits for run {uuid(others[0])} to complete"
    named = ", ".join(map(uuid, others[:3]))
    assert why(kapstan, many) == f"waits for runs {named} and 2 more to complete"
