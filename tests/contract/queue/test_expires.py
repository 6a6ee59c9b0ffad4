"""A deadline to begin: what was not begun by then ends, whoever comes first; what was begun goes on."""

from __future__ import annotations

import threading
import time

import pytest
from tests.contract.queue.makers import TASK, done, run
from tests.servers import trouble
from tests.servers.redis import RedisServer

from kapstan.errors import ConfigurationError, QueueFull
from kapstan.ids import RunId
from kapstan.ports import BackgroundFilter, Change, Depth
from kapstan.queue.background_runs import RedisBackgroundRuns
from kapstan.queue.redis import RedisQueue
from kapstan.queue.wire import pack

HOUR = 3600.0


def hours_pass(queue: RedisQueue, hours: float) -> None:
    """The clock of the namespace is ahead of the server's, as it is where that was set back."""
    seconds, micros = queue.command(pack("TIME"))
    shift = round(hours * 3_600_000)
    now = int(seconds) * 1000 + int(micros) // 1000 + shift
    queue.command(pack("HSET", f"{queue.prefix}m", "shift", shift, "clock", now))


def expired(queue: RedisQueue, run_id: RunId) -> bool:
    record = queue.record(run_id)
    assert record is not None
    return record.state == "cancelled" and record.expired


def deadlines(queue: RedisQueue) -> int:
    return queue.command(pack("ZCARD", f"{queue.prefix}ex"))


def test_a_claim_ends_what_is_overdue_and_takes_what_is_not(queue: RedisQueue, hire) -> None:
    late, plain, later = run(expires=HOUR), run(), run(expires=3 * HOUR)
    queue.submit(late)
    queue.submit_many([plain, later])
    lane = hire().lane
    hours_pass(queue, 2)
    claims = lane.step([], 10).claims
    assert [claim.run_id for claim in claims] == [plain.run_id, later.run_id]
    assert expired(queue, late.run_id)
    assert deadlines(queue) == 1
    lane.step([done(claim) for claim in claims], 0)
    assert deadlines(queue) == 0
    assert queue.depth([TASK]) == Depth(0, 0, 0, None)


def test_a_hand_over_never_gives_away_what_is_overdue(queue: RedisQueue, hire) -> None:
    worker = hire()
    assert worker.lane.step([], 1).claims == []  # idle: a submit hands over at once
    overdue, plain = run(expires=0.0), run()
    queue.submit(overdue)
    queue.submit_many([run(expires=0.0), plain])
    assert [claim.run_id for claim in worker.lane.wait(5.0)] == [plain.run_id]
    assert expired(queue, overdue.run_id)


@pytest.mark.parametrize("delay", [0.0, 2 * HOUR])
def test_a_beat_ends_what_no_lane_looks_at(queue: RedisQueue, hire, delay: float) -> None:
    submissions = [run("shop.tasks:nobody", expires=HOUR, delay=delay) for _ in range(250)]
    queue.submit_many(submissions)
    session = hire().session
    assert session.renew().next_due is not None, "it comes back in time"
    hours_pass(queue, 1.5)
    for _ in range(3):
        session.renew()
    assert all(expired(queue, submission.run_id) for submission in submissions)
    assert queue.depth(["shop.tasks:nobody"]) == Depth(0, 0, 0, None)


def test_who_waits_is_told_though_there_is_no_worker(queue: RedisQueue, open_queue, shared_server: RedisServer) -> None:
    submission = run(expires=0.2)
    queue.submit(submission)
    other = open_queue(shared_server, namespace=queue.settings.namespace)
    found: list[set[RunId]] = []
    waiting = threading.Thread(target=lambda: found.append(other.wait([submission.run_id], 30.0)))
    waiting.start()
    assert queue.wait([submission.run_id], 30.0) == {submission.run_id}
    waiting.join()
    assert found == [{submission.run_id}]
    assert expired(queue, submission.run_id)


def test_what_was_begun_in_time_ends_as_it_ends(queue: RedisQueue, hire) -> None:
    queue.submit_many([run(expires=HOUR), run(expires=HOUR)])
    worker = hire()
    claims = worker.lane.step([], 2).claims
    hours_pass(queue, 2)
    worker.session.renew()  # its deadline passes while it is held
    assert worker.lane.step([done(claims[0]), done(claims[1], state="failed")], 0).lost == []
    assert [queue.record(claim.run_id).state for claim in claims] == ["completed", "failed"]
    assert not queue.record(claims[0].run_id).expired
    assert deadlines(queue) == 0


@pytest.mark.parametrize("seen", [True, False], ids=["a beat came first", "the claim comes first"])
@pytest.mark.parametrize("way", ["given back", "not now", "a neighbour died", "reply lost"])
def test_what_comes_back_unbegun_is_not_begun_later(queue: RedisQueue, hire, way: str, seen: bool) -> None:
    queue.submit_many([run(), run(expires=HOUR)])
    worker = hire()
    first, second = worker.lane.step([], 2).claims
    hours_pass(queue, 2)
    if seen:
        worker.session.renew()
    if way == "given back":
        worker.lane.give_back([first.run_id])
    elif way == "not now":
        assert worker.lane.retry(second.run_id, second.token, 0.0, counted=False)
    elif way == "a neighbour died":
        worker.session.lane_died(0, first.run_id)
    else:
        worker.session.take_back([(second.run_id, second.token)])
    assert second.run_id not in {claim.run_id for claim in worker.lane.step([], 2).claims}
    assert expired(queue, second.run_id)
    assert queue.record(second.run_id).started is None, "it never was"
    assert deadlines(queue) == 0


@pytest.mark.parametrize("seen", [True, False], ids=["a beat came first", "the claim comes first"])
@pytest.mark.parametrize("way", ["handed back", "retried", "crashed", "its worker died"])
def test_what_was_begun_goes_on_after_its_deadline(queue: RedisQueue, hire, way: str, seen: bool) -> None:
    submission = run(expires=HOUR)
    queue.submit(submission)
    worker = hire()
    (claim,) = worker.lane.step([], 1).claims
    hours_pass(queue, 2)
    if seen:
        worker.session.renew()
    if way == "handed back":
        worker.lane.give_back([], claim.run_id)
    elif way == "retried":
        assert worker.lane.retry(claim.run_id, claim.token, 0.0)
    elif way == "crashed":
        worker.session.lane_died(0, claim.run_id)
    else:
        queue.expire_session(worker.session.name)
        worker = hire()
    assert deadlines(queue) == 0
    assert [again.run_id for again in worker.lane.step([], 1).claims] == [submission.run_id]


def test_a_cancel_is_a_cancel(queue: RedisQueue, hire) -> None:
    waiting, running = run(expires=HOUR), run(expires=HOUR)
    queue.submit_many([running, waiting])
    worker = hire()
    worker.lane.step([], 1)
    assert [queue.cancel(running.run_id), queue.cancel(waiting.run_id)] == ["running", "ready"]
    hours_pass(queue, 2)
    worker.session.renew()
    worker.lane.give_back([])
    for each in (waiting, running):
        assert queue.record(each.run_id).state == "cancelled"
        assert not expired(queue, each.run_id)
    assert deadlines(queue) == 0


def test_a_person_may_run_it_after_all(queue: RedisQueue, hire) -> None:
    submissions = [run(), run(expires=HOUR), run()]  # it ends in the middle of its list
    queue.submit_many(submissions)
    worker = hire(("shop.tasks:other",))
    hours_pass(queue, 2)
    worker.session.renew()
    runs = RedisBackgroundRuns(queue)
    listed = runs.page(BackgroundFilter(frozenset({"cancelled"})), 10).runs
    assert [(each.record.run_id, each.record.expired) for each in listed] == [(submissions[1].run_id, True)]
    assert runs.rerun(submissions[1].run_id) == (Change.DONE, "cancelled")
    claims = hire().lane.step([], 10).claims
    assert sorted(claim.run_id for claim in claims) == sorted(each.run_id for each in submissions)


def test_a_repeated_submit_moves_no_deadline(queue: RedisQueue, hire) -> None:
    submission = run(expires=HOUR)
    queue.submit(submission)
    assert queue.submit(submission._replace(expires=9 * HOUR)).duplicate
    queue.submit_many([submission._replace(expires=9 * HOUR), run(run_id=submission.run_id, expires=9 * HOUR)])
    hours_pass(queue, 2)
    assert hire().lane.step([], 1).claims == []
    assert expired(queue, submission.run_id)


def test_a_full_redis_takes_neither_run_nor_deadline(open_queue, own_server: RedisServer) -> None:
    queue = open_queue(own_server)
    queue.depth([TASK])
    with trouble.full(own_server):
        for call in (lambda: queue.submit(run(expires=1.0)), lambda: queue.submit_many([run(expires=1.0)])):
            with pytest.raises(QueueFull):
                call()
    assert deadlines(queue) == 0


@pytest.mark.parametrize("expires", [-1.0, float("nan"), float("inf"), 1e12])
def test_a_deadline_that_is_none_is_refused_by_name(queue: RedisQueue, expires: float) -> None:
    for call in (lambda: queue.submit(run(expires=expires)), lambda: queue.submit_many([run(expires=expires)])):
        with pytest.raises(ConfigurationError, match="expires="):
            call()


def test_a_claim_looks_past_many_in_bounded_calls(queue: RedisQueue, hire) -> None:
    queue.submit_many([*(run(expires=HOUR) for _ in range(1000)), run()])
    lane = hire().lane
    hours_pass(queue, 2)
    until = time.monotonic() + 30
    while not (claims := lane.step([], 1).claims):
        assert time.monotonic() < until
    assert len(claims) == 1
    assert deadlines(queue) == 0
