"""Limits of a task: how many of its runs are held at a time and how many begin in a period, over all and by group."""

from __future__ import annotations

import itertools
import json

import pytest
from tests.contract.queue.makers import TASK, Worker, done, run
from tests.servers.redis import RedisServer

from kapstan.ports import Change, Claim, Depth
from kapstan.queue.background_runs import RedisBackgroundRuns
from kapstan.queue.redis import RedisQueue
from kapstan.queue.wire import pack
from kapstan.run_limits import Limits, RateLimit

OTHER = "b:b"
NONE = Limits()
_names = itertools.count(1)


@pytest.fixture
def limited(queue: RedisQueue):
    """Opens workers of the task whose limits are given."""
    workers: list[Worker] = []

    def opened(limits: Limits = NONE, lanes: int = 1, served=(TASK,)) -> Worker:
        name = f"limited-{next(_names)}"
        session = queue.open_session("shop", served, lanes, session=name, limits={TASK: limits})
        worker = Worker(session, [queue.open_lane(name, lane, served) for lane in range(lanes)])
        workers.append(worker)
        return worker

    yield opened
    for worker in workers:
        worker.close()


def submitted(here: RedisQueue, count: int, **fields: object) -> list[str]:
    runs = [run(**fields) for _ in range(count)]
    here.submit_many(runs)
    return [each.run_id for each in runs]


def ids(claims: list[Claim]) -> list[str]:
    return [claim.run_id for claim in claims]


def handed_to_one(lanes: list) -> str:
    """The run that the queue has handed to one of these lanes; the others have heard of none."""
    (lane,) = [each for each in lanes if each._shown(set())]
    (claim,) = lane.wait(30.0)
    assert all(each.wait(0.0) == [] for each in lanes if each is not lane)
    return claim.run_id


def left_over(queue: RedisQueue) -> list[str]:
    keys = [key.decode()[len(queue.prefix) :] for key in queue.command(pack("KEYS", f"{queue.prefix}*"))]
    fields = queue.command(pack("HKEYS", f"{queue.prefix}n"))
    gone = ("q:", "turn:", "cs:", "cw:")
    return [key for key in keys if key.startswith(gone)] + [field.decode() for field in fields]


def finish_all(queue: RedisQueue, lanes: list) -> list[str]:
    """Claim and finish until nothing is left; the order."""
    order: list[str] = []
    while queue.depth([TASK]).ready + queue.depth([TASK]).limited:
        for lane in lanes:
            claims = lane.step([], 3).claims
            lane.step([done(claim) for claim in claims], 0)
            order += ids(claims)
    return order


def test_no_more_are_held_than_the_limit_says(queue: RedisQueue, limited) -> None:
    runs = submitted(queue, 5)
    worker = limited(Limits(concurrency=2), lanes=4)
    claimed = [lane.step([], 10).claims for lane in worker.lanes]
    assert [ids(claims) for claims in claimed] == [[runs[0]], [runs[1]], [], []], "each comes alone"
    assert queue.depth([TASK]) == Depth(0, 0, 2, None, limited=3)
    worker.lanes[0].step([done(claimed[0][0])], 0)
    assert handed_to_one(worker.lanes[2:]) == runs[2], "a slot that is freed goes to an idle lane at once"


HOW = ["completed", "failed", "parked", "cancelled", "given back", "retried", "delayed", "taken back", "announced"]


@pytest.mark.parametrize("group", ["", "g"])
@pytest.mark.parametrize("how", [*HOW, "session ends", "lane dies"])
def test_a_slot_is_free_again_whatever_ends_the_claim(queue: RedisQueue, limited, how: str, group: str) -> None:
    limits = Limits(group_concurrency=1) if group else Limits(concurrency=1)
    holder, waits = limited(limits), limited(limits)
    first, second = submitted(queue, 2, group=group)
    (claim,) = holder.lane.step([], 5).claims
    assert claim.run_id == first
    assert waits.lane.step([], 5).claims == []
    comes_back = how in ("given back", "taken back", "announced", "session ends", "lane dies")
    if how in ("completed", "failed", "parked"):
        assert holder.lane.step([done(claim, state=how)], 0).lost == []
    elif how == "cancelled":
        queue.cancel(first)
        holder.lane.give_back([])
    elif how == "given back":
        assert holder.lane.give_back([]) == [first]
    elif how in ("retried", "delayed"):
        assert holder.lane.retry(first, claim.token, 3600.0 if how == "delayed" else 0.0)
    elif how == "taken back":
        assert holder.session.take_back([(first, claim.token)]) == [first]
    elif how == "announced":
        holder.lane._held.clear()  # as if the reply that brought it had been lost
        holder.lane._disconnect()
        assert holder.lane.step([], 0).claims == []
    elif how == "session ends":
        assert queue.expire_session(holder.session.name) == [holder.session.name]
    else:
        assert not holder.session.lane_died(0, first, b"reason")
    assert ids(waits.lane.wait(5.0)) == [first if comes_back else second], "handed over at once"
    held = queue.command(pack("SMEMBERS", f"{queue.prefix}cs:{TASK}{'||g' if group else ''}"))
    assert [each.decode() for each in held] == [first if comes_back else second]


def test_a_limit_holds_over_queues_and_workers(queue: RedisQueue, limited) -> None:
    slow, plain = submitted(queue, 2, queue="slow"), submitted(queue, 2)
    one = limited(Limits(concurrency=1), served=[(TASK, "slow")])
    two = limited(Limits(concurrency=1))
    (claim,) = one.lane.step([], 5).claims
    assert claim.run_id == slow[0]
    assert two.lane.step([], 5).claims == []
    one.lane.step([done(claim)], 0)
    (claim,) = two.lane.wait(5.0)
    assert claim.run_id == plain[0]
    assert one.lane.step([], 5).claims == []


def test_other_tasks_are_not_held_up(queue: RedisQueue, limited) -> None:
    submitted(queue, 3)
    others = [run(OTHER) for _ in range(3)]
    queue.submit_many(others)
    worker = limited(Limits(concurrency=1), lanes=2, served=(TASK, OTHER))
    assert len(worker.lanes[0].step([], 1).claims) == 1
    assert ids(worker.lanes[1].step([], 5).claims) == [each.run_id for each in others]


def test_a_group_that_is_full_keeps_no_other_waiting(queue: RedisQueue, limited) -> None:
    big, small = submitted(queue, 10, group="big"), submitted(queue, 2, group="small")
    worker = limited(Limits(group_concurrency=2), lanes=6)
    held = [ids(lane.step([], 5).claims) for lane in worker.lanes]
    assert sorted(run_id for some in held for run_id in some) == sorted(big[:2] + small)
    assert held[4:] == [[], []]
    assert queue.depth([TASK]) == Depth(0, 0, 4, None, limited=8)


def test_both_limits_hold_together(queue: RedisQueue, limited) -> None:
    for group in "abc":
        submitted(queue, 3, group=group)
    worker = limited(Limits(concurrency=4, group_concurrency=2), lanes=6)
    held = [claim for lane in worker.lanes for claim in lane.step([], 5).claims]
    groups = [record.group for record in queue.records(ids(held))]
    assert len(held) == 4
    assert max(groups.count(group) for group in "abc") <= 2


def test_all_of_it_is_done_and_nothing_is_left(queue: RedisQueue, limited) -> None:
    runs: list[str] = []
    for group, priority in itertools.product(("", "a", "b", "c"), (0, 3)):
        runs += submitted(queue, 5, group=group, priority=priority)
    queue.cancel(runs[7])
    worker = limited(Limits(concurrency=3, group_concurrency=1), lanes=3)
    assert sorted([*finish_all(queue, worker.lanes), runs[7]]) == sorted(runs)
    assert left_over(queue) == []


def test_a_run_that_begins_anew_holds_a_slot_again(queue: RedisQueue, limited) -> None:
    worker = limited(Limits(concurrency=1))
    (first,) = submitted(queue, 1)
    (claim,) = worker.lane.step([], 1).claims
    worker.lane.step([done(claim, state="failed")], 0)
    assert RedisBackgroundRuns(queue).rerun(first) == (Change.DONE, "failed")
    submitted(queue, 1)
    assert ids(worker.lane.step([], 1).claims) == [first]
    assert limited(Limits(concurrency=1)).lane.step([], 1).claims == []


def test_an_idle_lane_is_handed_nothing_beyond_the_limit(queue: RedisQueue, limited) -> None:
    worker = limited(Limits(concurrency=1), lanes=2)
    assert [lane.step([], 1).claims for lane in worker.lanes] == [[], []]
    first, second = submitted(queue, 2)
    assert handed_to_one(worker.lanes) == first
    assert queue.record(second).state == "ready"


def test_the_session_that_was_opened_last_says_the_limits(queue: RedisQueue, limited) -> None:
    submitted(queue, 6)
    before = limited(Limits(concurrency=1), lanes=2)
    assert len(before.lanes[0].step([], 1).claims) == 1
    after = limited(Limits(concurrency=3), lanes=3)
    assert [len(lane.step([], 1).claims) for lane in after.lanes] == [1, 1, 0]
    free = limited()
    assert len(after.lanes[2].wait(5.0)) == 1, "no limit any more: it was idle"
    assert len(free.lane.step([], 5).claims) == 2
    assert queue.command(pack("EXISTS", f"{queue.prefix}lim")) == 0


def test_slots_stay_over_a_restart_and_a_lost_session(open_queue, own_server: RedisServer) -> None:
    queue = open_queue(own_server)
    runs = submitted(queue, 2)
    limits = {TASK: Limits(concurrency=1)}
    one = queue.open_session("shop", [TASK], 1, session="one", limits=limits)
    lane = queue.open_lane("one", 0, [TASK])
    (claim,) = lane.step([], 1).claims
    own_server.kill()
    own_server.start()
    two = queue.open_session("shop", [TASK], 1, session="two", limits=limits)
    other = queue.open_lane("two", 0, [TASK])
    assert other.step([], 1).claims == []
    assert lane.step([done(claim)], 0).lost == []
    assert ids(other.wait(5.0)) == [runs[1]]
    for each in (lane, other, one, two):
        each.close()


def test_an_old_claim_frees_no_slot_of_the_next(queue: RedisQueue, limited) -> None:
    """A late outcome, a second give-back: what is over frees nothing more."""
    one, two, three = (limited(Limits(concurrency=1)) for _ in range(3))
    runs = submitted(queue, 2)
    (old,) = one.lane.step([], 1).claims
    one.session.take_back([(old.run_id, old.token)])
    (new,) = two.lane.step([], 1).claims
    assert new.run_id == runs[0]
    assert one.lane.step([done(old)], 0).lost == [old.run_id]
    one.session.take_back([(old.run_id, old.token)])
    assert three.lane.step([], 1).claims == []
    for _ in range(2):
        assert two.lane.step([done(new)], 0).lost == []
    assert ids(three.lane.wait(5.0)) == [runs[1]]


@pytest.mark.parametrize("want", [0, 1])
def test_a_slot_that_is_freed_goes_past_cancelled_runs(queue: RedisQueue, limited, want: int) -> None:
    """The script that ends the one run hands over the next: it looks at what stands before that in the list."""
    first, second, third, fourth = submitted(queue, 4)
    worker = limited(Limits(concurrency=1), lanes=2)
    (claim,) = worker.lane.step([], 1).claims
    assert (claim.run_id, worker.lanes[1].step([], 1).claims) == (first, [])
    queue.cancel(third)  # in the middle of the list: its entry stays
    queue.cancel(second)
    stepped = worker.lane.step([done(claim)], want)
    assert ids([*stepped.claims, *worker.lanes[1].wait(0.0 if want else 5.0)]) == [fourth]
    assert queue.depth([TASK]) == Depth(0, 0, 1, None)


def test_odd_names_are_limits_too(queue: RedisQueue, limited) -> None:
    for group in ["|", "||", "a||0|b", "~x", "%d", "ä {x}"]:
        submitted(queue, 2, group=group)
    worker = limited(Limits(group_concurrency=1), lanes=8)
    held = [claim for lane in worker.lanes for claim in lane.step([], 5).claims]
    assert len({record.group for record in queue.records(ids(held))}) == len(held) == 6
    for lane in worker.lanes:
        lane.give_back([])
    finish_all(queue, worker.lanes)
    assert left_over(queue) == []


# ------------------------------------------------------------------ rates


def clock(queue: RedisQueue, ahead: int) -> None:
    """Let the namespace's clock be ``ahead`` milliseconds ahead of the server's."""
    seconds, micros = queue.command(pack("TIME"))
    now = int(seconds) * 1000 + int(micros) // 1000 + ahead
    queue.command(pack("HSET", f"{queue.prefix}m", "shift", ahead, "clock", now))


def test_a_rate_spreads_what_begins(queue: RedisQueue, limited) -> None:
    runs = submitted(queue, 4)
    worker = limited(Limits(rate=RateLimit(60, 3600)))
    assert ids(worker.lane.step([], 5).claims) == runs[:1]
    assert worker.lane.step([], 5).claims == []
    clock(queue, 59_000)
    assert worker.lane.step([], 5).claims == []
    for minutes in (1, 2, 3):
        clock(queue, minutes * 60_100)
        assert ids(worker.lane.step([], 5).claims) == runs[minutes : minutes + 1]
        assert worker.lane.step([], 5).claims == []


def test_who_has_waited_is_handed_over_when_its_time_comes(queue: RedisQueue, limited) -> None:
    runs = submitted(queue, 3)
    worker, order = limited(Limits(rate=RateLimit(600, 60))), list[str]()  # each 100 ms
    claims = worker.lane.step([], 1).claims
    while claims:
        order += ids(claims)
        assert worker.lane.step([done(claim) for claim in claims], 1).claims == []
        renewed, claims = worker.session.renew(), []
        while renewed.next_due is not None and not claims:
            assert renewed.next_due <= 0.1, "the supervisor is told when there is room again"
            claims = worker.lane.wait(renewed.next_due)
            renewed = worker.session.renew()
            # Nothing more is due: it was handed over, and the message is on its way.
            claims = claims or worker.lane.wait(5.0 if renewed.next_due is None else 0.0)
    assert order == runs


def test_each_group_has_a_rate_of_its_own(queue: RedisQueue, limited) -> None:
    a, b = submitted(queue, 2, group="a"), submitted(queue, 2, group="b")
    worker = limited(Limits(group_rate=RateLimit(1, 3600)))
    assert sorted(ids(worker.lane.step([], 5).claims) + ids(worker.lane.step([], 5).claims)) == sorted([a[0], b[0]])
    assert worker.lane.step([], 5).claims == []
    clock(queue, 3_700_000)
    worker.session.renew()
    heard = worker.lane.wait(1.0)
    assert sorted(ids(heard) + ids(worker.lane.step([], 5).claims)) == sorted([a[1], b[1]])


@pytest.mark.parametrize("group", ["", "g"])
def test_a_process_that_is_gone_uses_up_no_turn(queue: RedisQueue, limited, group: str) -> None:
    hourly = RateLimit(1, 3600)
    limits = Limits(group_rate=hourly) if group else Limits(rate=hourly)
    gone, lives = limited(limits), limited(limits)
    assert gone.lane.step([], 1).claims == []
    gone.die()
    (run_id,) = submitted(queue, 1, group=group)
    idle = queue.command(pack("EXISTS", f"{queue.prefix}idle:{TASK}"))
    assert (idle, queue.record(run_id).state) == (0, "ready"), "the lane was drawn, and did not listen"
    assert ids(lives.lane.step([], 1).claims) == [run_id]


@pytest.mark.parametrize("rate", [RateLimit(1, 3600), RateLimit(7, 60), RateLimit(100, 1), RateLimit(1000, 1)])
def test_no_period_sees_more_than_the_rate_says(rate: RateLimit) -> None:
    """The arithmetic of ``under`` and ``full`` in ``turns.lua``, with whoever asks every moment."""
    between, ahead = rate.pace
    due, begun, now = 0.0, list[float](), 0.0
    while len(begun) < 4 * rate.runs:
        if due - ahead <= now:
            due = max(due, now) + between
            begun.append(now)
        else:
            now = due - ahead
    for at, first in enumerate(begun):
        within = sum(1 for other in begun[at : at + rate.runs + 2] if other < first + rate.seconds * 1000 - 1e-6)
        assert within <= rate.runs
    assert begun[-1] <= 1.06 * 4 * rate.seconds * 1000, "and hardly fewer"


def test_what_a_session_says_of_limits_is_readable(queue: RedisQueue, limited) -> None:
    worker = limited(Limits(concurrency=2, group_rate=RateLimit(1, 60)))
    told = json.loads(queue.command(pack("HGET", f"{queue.prefix}w:{worker.session.name}", "@")))
    assert told["limits"] == {TASK: {"c": 2, "h": "60000.000000 0.000000"}}
