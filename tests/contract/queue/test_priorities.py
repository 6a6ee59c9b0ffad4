"""Priorities and groups: who goes first among the runs of one task in a queue, and that none starves."""

from __future__ import annotations

from collections import Counter

import pytest
from tests.contract.queue.makers import TASK, Worker, done, run, worker
from tests.servers.redis import RedisServer

from kapstan.errors import ConfigurationError
from kapstan.ports import Change, Depth, Submission
from kapstan.queue.background_runs import RedisBackgroundRuns
from kapstan.queue.redis import RedisQueue
from kapstan.queue.wire import pack

FIELDS = [("low", -3), ("plain", 0), ("high", 7), ("top", 100)]


def submitted(queue: RedisQueue, count: int, **fields: object) -> list[str]:
    runs = [run(**fields) for _ in range(count)]
    queue.submit_many(runs)
    return [each.run_id for each in runs]


def one_by_one(each: Worker, count: int) -> list[str]:
    """Claim and finish ``count`` runs, each alone; their ids."""
    order: list[str] = []
    for _ in range(count):
        claims = each.lane.step([], 1).claims
        each.lane.step([done(claim) for claim in claims], 0)
        order += [claim.run_id for claim in claims]
    return order


def left_over(queue: RedisQueue) -> list[str]:
    """Keys of lists and turns that are left, and fields of the counts."""
    keys = [key.decode()[len(queue.prefix) :] for key in queue.command(pack("KEYS", f"{queue.prefix}*"))]
    fields = queue.command(pack("HKEYS", f"{queue.prefix}n"))
    return [key for key in keys if key.startswith(("q:", "turn:"))] + [field.decode() for field in fields]


@pytest.mark.parametrize("bulk", [True, False])
def test_greater_priority_goes_first_and_equals_in_order(queue: RedisQueue, hire, bulk: bool) -> None:
    runs: dict[str, list[Submission]] = {name: [run(priority=level) for _ in range(2)] for name, level in FIELDS}
    for name in ("plain", "low", "top", "high"):
        if bulk:
            queue.submit_many(runs[name])
        else:
            for each in runs[name]:
                queue.submit(each)
    wanted = [each.run_id for name in ("top", "high", "plain", "low") for each in runs[name]]
    assert queue.depth([TASK]).ready == 8
    assert one_by_one(hire(), 8) == wanted
    assert left_over(queue) == []
    assert [record.priority for record in queue.records(wanted)] == [100, 100, 7, 7, 0, 0, -3, -3]


def test_a_batch_goes_by_priority_too(queue: RedisQueue, hire) -> None:
    low, plain, high = (submitted(queue, 3, priority=level) for level in (-1, 0, 1))
    assert [claim.run_id for claim in hire().lane.step([], 8).claims] == [*high, *plain, *low[:2]]


def test_of_ten_turns_one_goes_to_what_has_waited_longest(queue: RedisQueue, hire) -> None:
    low, plain = submitted(queue, 3, priority=-5), submitted(queue, 3)
    each, order = hire(), list[str]()
    for _ in range(60):  # there is always something of high priority
        submitted(queue, 1, priority=9)
        order += one_by_one(each, 1)
    served = [at for at, run_id in enumerate(order, 1) if run_id in plain + low]
    assert served == [10, 20, 30, 40, 50, 60]
    assert set(order[9::10]) == {*plain, *low}


def test_groups_of_one_priority_take_turns(queue: RedisQueue, hire) -> None:
    submitted(queue, 50, group="big")
    small = submitted(queue, 3, group="small")
    ungrouped = submitted(queue, 3)
    order = one_by_one(hire(), 9)
    for runs in (small, ungrouped):
        assert [order.index(run_id) // 3 for run_id in runs] == [0, 1, 2], "one in each round of three"


def test_a_batch_takes_one_of_each_group_in_turns(queue: RedisQueue, hire) -> None:
    of = {name: submitted(queue, 40, group=name) for name in ("a", "b", "c")}
    owner = {run_id: name for name, runs in of.items() for run_id in runs}
    claims = hire().lane.step([], 30).claims
    assert Counter(owner[claim.run_id] for claim in claims) == {"a": 10, "b": 10, "c": 10}
    assert queue.depth([TASK]).ready == 90


def test_a_group_within_a_priority_does_not_go_before_a_greater_one(queue: RedisQueue, hire) -> None:
    submitted(queue, 3, group="a")
    high = submitted(queue, 3, priority=1, group="b")
    assert one_by_one(hire(), 3) == high


@pytest.mark.parametrize("how", ["given back", "retried", "delayed", "session ends", "lane dies", "rerun"])
def test_what_comes_back_keeps_its_priority_and_group(queue: RedisQueue, hire, how: str) -> None:
    first = worker(queue, name="first")
    (run_id,) = submitted(queue, 1, priority=2, group="g")
    plain = submitted(queue, 1)
    (claim,) = first.lane.step([], 1).claims
    assert claim.run_id == run_id
    if how == "given back":
        first.lane.give_back([])
    elif how == "retried":
        first.lane.retry(run_id, claim.token, 0.0)
    elif how == "delayed":
        first.lane.retry(run_id, claim.token, 0.02)
        while queue.depth([TASK]).delayed:
            first.session.renew()
    elif how == "session ends":
        queue.expire_session("first")
    elif how == "lane dies":
        first.session.lane_died(0, run_id)
    else:
        first.lane.step([done(claim, state="failed")], 0)
        assert RedisBackgroundRuns(queue).rerun(run_id) == (Change.DONE, "failed")
    assert queue.depth([TASK]).ready == 2
    assert one_by_one(hire(), 2) == [run_id, *plain]
    assert left_over(queue) == []
    first.close()


def test_an_idle_lane_is_handed_what_has_a_priority(queue: RedisQueue, hire) -> None:
    each = hire()
    assert each.lane.step([], 1).claims == []
    high = run(priority=3, group="g")
    queue.submit(high)
    (claim,) = each.lane.wait(5.0)
    assert claim.run_id == high.run_id
    each.lane.step([done(claim)], 0)
    assert queue.record(high.run_id).state == "completed"
    assert left_over(queue) == []


def test_what_nobody_hears_of_keeps_its_place(queue: RedisQueue, hire) -> None:
    deaf = worker(queue)
    assert deaf.lane.step([], 1).claims == []
    deaf.die()
    first = submitted(queue, 1, priority=1, group="g")
    second = submitted(queue, 1, priority=1, group="g")
    assert queue.depth([TASK]) == Depth(2, 0, 0, queue.depth([TASK]).oldest_ready_seconds)
    assert one_by_one(hire(), 2) == first + second
    deaf.close()


def test_a_cancelled_run_leaves_its_turn_to_others(queue: RedisQueue, hire) -> None:
    high = submitted(queue, 5, priority=4)
    plain = submitted(queue, 1)
    for run_id in high[1:4]:  # in the middle of their list
        assert queue.cancel(run_id) == "ready"
    assert queue.depth([TASK]).ready == 3
    assert RedisBackgroundRuns(queue).rerun(high[2]) == (Change.DONE, "cancelled")
    assert one_by_one(hire(), 4) == [high[0], high[2], high[4], *plain]  # [2] stands twice: its first entry counts
    assert left_over(queue) == []


def test_many_cancelled_groups_do_not_hide_what_is_ready(queue: RedisQueue, hire) -> None:
    for group in range(300):
        (run_id,) = submitted(queue, 1, group=f"group-{group}")
        queue.cancel(run_id)
    (last,) = submitted(queue, 1, group="group-last")
    each = hire()
    while not (claims := each.lane.step([], 1).claims):
        pass
    assert [claim.run_id for claim in claims] == [last]


def test_an_effect_comes_alone_and_in_its_turn(queue: RedisQueue, hire) -> None:
    alone = [submitted(queue, 1, priority=1, effect="a")[0] for _ in range(2)]
    pure = submitted(queue, 3)
    each = hire()
    assert [claim.run_id for claim in each.lane.step([], 5).claims] == alone[:1]
    assert [claim.run_id for claim in each.lane.step([], 5).claims] == alone[1:]
    assert [claim.run_id for claim in each.lane.step([], 5).claims] == pure


def test_turns_stay_over_a_restart(open_queue, own_server: RedisServer) -> None:
    queue = open_queue(own_server)
    plain, high = submitted(queue, 1), submitted(queue, 1, priority=1)
    own_server.kill()
    own_server.start()
    each = worker(queue)
    assert one_by_one(each, 2) == [*high, *plain]
    each.close()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"priority": 101}, "priority=101"),
        ({"priority": 1.5}, "priority=1.5"),
        ({"group": "a\0b"}, "group="),
        ({"group": "ä" * 65}, "group="),
    ],
)
def test_what_cannot_be_is_refused(queue: RedisQueue, fields: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        queue.submit(run(**fields))


def test_odd_groups_are_groups(queue: RedisQueue, hire) -> None:
    groups = ["|", "||9|x", "a|b", "ä ö", "{x}:y", "-1", "%d"]
    runs = {submitted(queue, 1, group=group, priority=1)[0]: group for group in groups}
    order = one_by_one(hire(), len(groups))
    assert sorted(order) == sorted(runs)
    assert {record.run_id: record.group for record in queue.records(order)} == runs
    assert {record.task for record in queue.records(order)} == {TASK}
    assert left_over(queue) == []
