"""Limits that a newly started worker changes: what waits already goes by the new numbers."""

from __future__ import annotations

import pytest
from tests.contract.queue.makers import TASK, done
from tests.contract.queue.test_limits import clock, finish_all, ids, left_over, submitted
from tests.contract.queue.test_limits import limited as limited

from kapstan.queue.redis import RedisQueue
from kapstan.run_limits import Limits, RateLimit

HOURLY, EACH_SECOND = RateLimit(1, 3600), RateLimit(60, 60)


def test_a_faster_rate_holds_for_what_waits(queue: RedisQueue, limited) -> None:
    runs = submitted(queue, 3)
    worker = limited(Limits(rate=HOURLY))
    (claim,) = worker.lane.step([], 1).claims
    assert worker.lane.step([done(claim)], 1).claims == []
    assert worker.session.renew().next_due > 3_000
    limited(Limits(rate=EACH_SECOND))
    assert worker.session.renew().next_due <= 1.0, "the supervisor is told of the new moment"
    assert worker.lane.step([], 1).claims == [], "one interval of the new rate is waited for"
    for seconds in (1, 2):
        clock(queue, seconds * 1_100)
        (claim,) = worker.lane.step([], 1).claims
        assert claim.run_id == runs[seconds]
        assert worker.lane.step([done(claim)], 1).claims == []


def test_a_slower_rate_holds_for_what_waits(queue: RedisQueue, limited) -> None:
    runs = submitted(queue, 3)
    worker = limited(Limits(rate=EACH_SECOND))
    assert ids(worker.lane.step([], 1).claims) == runs[:1]
    limited(Limits(rate=HOURLY))
    clock(queue, 1_100)
    assert ids(worker.lane.step([], 1).claims) == runs[1:2], "its time had been told before"
    clock(queue, 3_590_000)
    assert worker.lane.step([], 1).claims == []
    clock(queue, 3_602_000)
    assert ids(worker.lane.step([], 1).claims) == runs[2:]


def states(queue: RedisQueue, runs: list[str]) -> list[str]:
    return [record.state for record in queue.records(runs)]


@pytest.mark.parametrize(("after", "running"), [(2, 2), (None, 3)])
def test_a_group_that_is_out_of_turn_sees_a_looser_limit(
    queue: RedisQueue, limited, after: int | None, running: int
) -> None:
    runs = submitted(queue, 3, group="g")
    worker = limited(Limits(group_concurrency=1), lanes=3)
    assert [ids(lane.step([], 1).claims) for lane in worker.lanes] == [runs[:1], [], []]
    limited(Limits(group_concurrency=1))
    assert states(queue, runs) == ["running", "ready", "ready"], "the same numbers change nothing"
    limited(Limits(group_concurrency=after))
    assert states(queue, runs) == ["running"] * running + ["ready"] * (3 - running)


def test_a_group_that_is_out_of_turn_sees_a_faster_rate(queue: RedisQueue, limited) -> None:
    runs = submitted(queue, 2, group="g")
    worker = limited(Limits(group_rate=HOURLY), lanes=2)
    assert [ids(lane.step([], 1).claims) for lane in worker.lanes] == [runs[:1], []]
    limited(Limits(group_rate=EACH_SECOND))
    assert states(queue, runs) == ["running", "ready"]
    clock(queue, 1_100)
    worker.session.renew()
    assert states(queue, runs) == ["running", "running"]


def test_other_queues_of_a_task_see_a_looser_limit_at_once(queue: RedisQueue, limited) -> None:
    runs = submitted(queue, 1) + submitted(queue, 1, queue="slow")
    worker = limited(Limits(concurrency=1), lanes=2, served=(TASK, (TASK, "slow")))
    assert [ids(lane.step([], 1).claims) for lane in worker.lanes] == [runs[:1], []]
    limited(Limits(concurrency=2))
    assert states(queue, runs) == ["running", "running"]


@pytest.mark.parametrize("after", [RateLimit(2, 3600), None])
def test_many_groups_try_again_a_hundred_at_a_call(queue: RedisQueue, limited, after: RateLimit | None) -> None:
    groups = [f"tenant {number}" for number in range(250)]
    for group in groups:
        submitted(queue, 2, group=group)
    lane = limited(Limits(group_rate=HOURLY)).lane
    for _ in groups:
        lane.step([done(claim) for claim in lane.step([], 1).claims], 0)
    assert lane.wait(0.1) == [], "every group was looked at"
    worker = limited(Limits(group_rate=after))
    assert [worker.session.renew().next_due == 0 for _ in range(3)] == [True, False, False], "and not for ever"
    if after is None:
        assert len(finish_all(queue, [lane, worker.lane])) == 250
        assert left_over(queue) == []
    else:
        assert worker.lane.step([], 1).claims == []
        clock(queue, 1_801_000)
        assert len(finish_all(queue, [lane, worker.lane])) == 250


SLOW = [RateLimit(1, 3600), RateLimit(7, 60), RateLimit(40, 1)]
FAST = [RateLimit(60, 60), RateLimit(41, 1), RateLimit(1000, 1)]


@pytest.mark.parametrize(
    ("before", "after"),
    [(slow, fast) for slow in SLOW for fast in FAST if slow.runs * fast.seconds < fast.runs * slow.seconds],
)
def test_no_period_sees_more_than_the_faster_of_two_rates(before: RateLimit, after: RateLimit) -> None:
    """The arithmetic of ``due_under`` in ``turns.lua``, with whoever asks every moment; the rate changes at different
    moments."""
    for number in range(1, 8):
        (between, ahead), changed = before.pace, False
        due, begun, now = 0.0, list[float](), 0.0
        while len(begun) < number + 2 * after.runs:
            if not changed and len(begun) == number:
                (between, ahead), changed = after.pace, True
            due = min(due, now + between + ahead)
            if due - ahead <= now:
                due = max(due, now) + between
                begun.append(now)
            else:
                now = due - ahead
        for at, first in enumerate(begun):
            within = sum(1 for other in begun[at : at + after.runs + 2] if other < first + after.seconds * 1000 - 1e-6)
            assert within <= after.runs
