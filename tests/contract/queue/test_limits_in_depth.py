"""The backlog counts what limits let begin now, so that no workers are added for the rest."""

from __future__ import annotations

import pytest
from tests.contract.queue.makers import TASK, done
from tests.contract.queue.test_limits import clock, submitted
from tests.contract.queue.test_limits import limited as limited

from kapstan.queue.redis import RedisQueue
from kapstan.run_limits import Limits, RateLimit

SLOW = (TASK, "slow")


def split(queue: RedisQueue, *served: tuple[str, str] | str) -> tuple[int, int]:
    depth = queue.depth(served or (TASK,))
    assert (depth.oldest_ready_seconds is not None) == (depth.ready > 0)
    return depth.ready, depth.limited


def test_free_slots_count(queue: RedisQueue, limited) -> None:
    submitted(queue, 10)
    worker = limited(Limits(concurrency=4), lanes=4)
    assert split(queue) == (4, 6), "also before any was claimed"
    (claim,) = worker.lane.step([], 1).claims
    assert split(queue) == (3, 6)
    worker.lane.step([done(claim)], 0)
    assert split(queue) == (4, 5)
    limited()
    assert split(queue) == (9, 0)


def test_queues_of_a_task_share_its_limit(queue: RedisQueue, limited) -> None:
    submitted(queue, 5)
    submitted(queue, 5, queue="slow")
    limited(Limits(concurrency=7), served=(TASK, SLOW))
    assert (split(queue), split(queue, SLOW)) == ((5, 0), (5, 0))
    assert split(queue, TASK, SLOW) == (7, 3)


def test_each_group_counts_as_far_as_its_limit_goes(queue: RedisQueue, limited) -> None:
    for group, count in (("big", 50), ("small", 1), ("", 3)):
        submitted(queue, count, group=group)
    submitted(queue, 4, group="big", priority=7)
    submitted(queue, 2, priority=7)
    worker = limited(Limits(group_concurrency=2), lanes=4)
    assert split(queue) == (2 + 1 + 3 + 2, 52)
    assert worker.lane.step([], 1).claims[0].run_id
    assert split(queue) == (1 + 1 + 3 + 2, 52)
    limited(Limits(concurrency=5, group_concurrency=2))
    assert sum(split(queue)) == 59
    assert split(queue)[0] <= 5


def test_turns_of_a_rate_count_that_have_come(queue: RedisQueue, limited) -> None:
    submitted(queue, 30)
    worker = limited(Limits(rate=RateLimit(60, 60)))
    assert split(queue) == (1, 29)
    worker.lane.step([], 1)
    assert split(queue) == (0, 29)
    clock(queue, 1_100)
    assert split(queue) == (1, 28)
    limited(Limits(rate=RateLimit(200, 1)))
    clock(queue, 5_000)
    assert split(queue) == (10, 19), "those that may begin together"


@pytest.mark.parametrize("paused", ["task", "queue"])
def test_what_is_paused_is_no_part_of_it(queue: RedisQueue, limited, paused: str) -> None:
    submitted(queue, 3)
    limited(Limits(concurrency=1))
    queue.pause(TASK if paused == "task" else "")
    assert (split(queue), queue.depth([TASK]).paused) == ((0, 0), 3)
