"""Runs that wait for runs: they stand in no list, hold no lane, and start when the others have ended."""

from __future__ import annotations

import pytest
from tests.contract.queue.makers import TASK, done, run
from tests.contract.queue.test_expires import HOUR, expired, hours_pass
from tests.contract.queue.test_keys import left_behind
from tests.servers.redis import RedisServer

from kapstan.ids import RunId, new_id
from kapstan.ports import Depth, Submitted
from kapstan.queue.background_runs import RedisBackgroundRuns
from kapstan.queue.redis import RedisQueue


def waits(queue: RedisQueue, run_id: RunId) -> bool:
    listed = RedisBackgroundRuns(queue).look(run_id)
    assert listed is not None
    return listed.record.state == "delayed" and listed.due is None


@pytest.fixture
def nothing_left(queue: RedisQueue, shared_server: RedisServer):
    """What says who waits for whom is gone when nobody does."""
    yield
    assert [key for key in left_behind(queue, shared_server) if key[:2] in ("af", "aw", "ae", "v")] == []


pytestmark = pytest.mark.usefixtures("nothing_left")


def test_it_starts_in_the_step_that_completes_the_last(queue: RedisQueue, hire) -> None:
    first, second = run(), run()
    queue.submit_many([first, second])
    later = run(after=(first.run_id, second.run_id))
    assert queue.submit(later) == Submitted("delayed", duplicate=False)
    lane = hire().lane
    claims = lane.step([], 10).claims
    assert [claim.run_id for claim in claims] == [first.run_id, second.run_id]
    assert lane.step([done(claims[0])], 10).claims == []
    assert waits(queue, later.run_id)
    assert [claim.run_id for claim in lane.step([done(claims[1])], 10).claims] == [later.run_id]


@pytest.mark.parametrize("state", ["failed", "crashed", "cancelled"])
def test_one_that_ends_otherwise_starts_it_at_once(queue: RedisQueue, hire, state: str) -> None:
    first, second = run(), run("shop.tasks:never")
    queue.submit_many([first, second])
    later = run(after=(first.run_id, second.run_id))
    queue.submit(later)
    lane = hire().lane
    (claim,) = lane.step([], 10).claims
    (then,) = lane.step([done(claim, state=state)], 10).claims
    assert then.run_id == later.run_id
    lane.step([done(then)], 0)
    queue.cancel(second.run_id)
    hire().session.renew()


@pytest.mark.parametrize("way", ["cancel", "deadline", "crash"])
def test_an_end_that_no_lane_makes_starts_it_with_a_beat(queue: RedisQueue, hire, way: str) -> None:
    first = run(expires=HOUR if way == "deadline" else None)
    queue.submit(first)
    later = run(after=(first.run_id,))
    queue.submit_many([later])
    worker = hire()
    if way == "cancel":
        queue.cancel(first.run_id)
    elif way == "deadline":
        hours_pass(queue, 2)
    else:
        for _ in range(queue.settings.max_crashes):
            (claim,) = worker.lane.step([], 1).claims
            worker.session.lane_died(0, claim.run_id, b"reason")
    worker.session.renew()
    assert queue.record(first.run_id).state in ("cancelled", "crashed")
    assert [claim.run_id for claim in worker.lane.step([], 10).claims] == [later.run_id]


def test_what_has_ended_is_not_waited_for(queue: RedisQueue, hire) -> None:
    first = run()
    queue.submit(first)
    lane = hire().lane
    lane.step([done(lane.step([], 1).claims[0])], 0)
    for after in ((first.run_id,), (new_id(),), (new_id(), first.run_id)):
        assert queue.submit(run(after=after)) == Submitted("ready", duplicate=False)
        assert queue.submit_many([run(after=after)]) == [Submitted("ready", duplicate=False)]
    later = run(after=(first.run_id,), delay=HOUR)
    assert queue.submit(later) == Submitted("delayed", duplicate=False)
    assert not waits(queue, later.run_id)


@pytest.mark.parametrize("way", ["retry", "given back", "worker died", "parked"])
def test_what_has_not_ended_starts_nothing(queue: RedisQueue, hire, way: str) -> None:
    first = run(effect="a")
    queue.submit(first)
    later = run(after=(first.run_id,))
    queue.submit(later)
    worker = hire()
    (claim,) = worker.lane.step([], 1).claims
    if way == "retry":
        worker.lane.retry(claim.run_id, claim.token, 0.0)
    elif way == "given back":
        worker.lane.give_back([])
    elif way == "worker died":
        queue.expire_session(worker.session.name)
        worker = hire()
    else:
        worker.lane.step([done(claim, b"key", "parked")], 0)
        RedisBackgroundRuns(queue).rerun(first.run_id)
    worker.session.renew()
    assert waits(queue, later.run_id)
    (again,) = worker.lane.step([], 10).claims
    assert again.run_id == first.run_id
    (then,) = worker.lane.step([done(again)], 10).claims
    assert then.run_id == later.run_id


def test_it_waits_for_its_time_too(queue: RedisQueue, hire) -> None:
    first = run()
    queue.submit(first)
    later = [run(after=(first.run_id,), delay=HOUR), run(after=(first.run_id,), delay=HOUR)]
    queue.submit(later[0])
    assert queue.submit_many(later[1:]) == [Submitted("delayed", duplicate=False)]
    worker = hire()
    assert worker.session.renew().next_due is None, "nothing is due"
    (claim,) = worker.lane.step([], 10).claims
    assert worker.lane.step([done(claim)], 10).claims == []
    assert not waits(queue, later[0].run_id)
    hours_pass(queue, 2)
    assert {claim.run_id for claim in worker.lane.step([], 10).claims} == {each.run_id for each in later}


def test_one_end_starts_thousands_a_hundred_at_a_call(queue: RedisQueue, hire) -> None:
    first = run()
    queue.submit(first)
    many = [run(after=(first.run_id,)) for _ in range(1200)]
    assert set(queue.submit_many(many)) == {Submitted("delayed", duplicate=False)}
    assert queue.depth([TASK]) == Depth(1, 1200, 0, 0.0)
    worker = hire()
    (claim,) = worker.lane.step([], 256).claims
    worker.lane.step([done(claim)], 0)
    found = 0
    for _ in range(14):
        due = worker.session.renew().next_due
        assert due == 0 or found + queue.depth([TASK]).ready == 1200
        claims = worker.lane.step([], 256).claims
        worker.lane.step([done(claim) for claim in claims], 0)
        found += len(claims)
    assert found == 1200


def test_who_waits_can_be_cancelled_and_can_expire(queue: RedisQueue, hire) -> None:
    first = run()
    queue.submit(first)
    cancelled, late, stays = (run(after=(first.run_id,), expires=expires) for expires in (None, HOUR, 9 * HOUR))
    queue.submit_many([cancelled, late, stays])
    assert queue.cancel(cancelled.run_id) == "delayed"
    hours_pass(queue, 2)
    worker = hire()
    worker.session.renew()
    assert expired(queue, late.run_id)
    (claim,) = worker.lane.step([], 10).claims
    assert [then.run_id for then in worker.lane.step([done(claim)], 10).claims] == [stays.run_id]
    assert queue.depth([TASK]) == Depth(0, 0, 1, None)


def test_a_repeated_submit_waits_once(queue: RedisQueue, hire) -> None:
    first = run()
    queue.submit(first)
    later = run(after=(first.run_id,))
    queue.submit(later)
    assert queue.submit(later) == Submitted("delayed", duplicate=True)
    queue.submit_many([later])
    lane = hire().lane
    (claim,) = lane.step([], 10).claims
    assert len(lane.step([done(claim)], 10).claims) == 1
