"""Submits under a replace key: what still waits is replaced, what was begun is left alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.contract.queue.makers import TASK, done, run
from tests.contract.queue.test_expires import HOUR, deadlines, expired, hours_pass
from tests.servers import trouble
from tests.servers.redis import RedisServer

from kapstan.errors import QueueFull
from kapstan.ids import RunId
from kapstan.ports import Depth, Submission, Submitted
from kapstan.queue import scripts, submit_call
from kapstan.queue.redis import RedisQueue
from kapstan.queue.wire import pack

KEY = "document-42"
OTHER = "shop.tasks:other"


def replaced(
    queue: RedisQueue, envelope: bytes = b"arguments", key: str = KEY, **fields: Any
) -> tuple[RunId, Submitted]:
    return queue.replace(key, lambda run_id: run(run_id=run_id, envelope=envelope, **fields))


def test_one_that_waits_gets_the_arguments_of_the_last(queue: RedisQueue, hire) -> None:
    first, answer = replaced(queue, b"1")
    assert answer == Submitted("ready", duplicate=False)
    other, _ = replaced(queue, b"other", key="document-43")
    for number in range(2, 6):
        assert replaced(queue, b"%d" % number, fingerprint=f"inputs-{number}") == (first, Submitted("ready", True))
    claims = hire().lane.step([], 10).claims
    assert [(claim.run_id, claim.envelope) for claim in claims] == [(first, b"5"), (other, b"other")]
    assert queue.depth([TASK]) == Depth(0, 0, 2, None)


def test_each_moves_its_time(queue: RedisQueue, hire) -> None:
    first, _ = replaced(queue, b"1", delay=HOUR)
    assert replaced(queue, b"2", delay=3 * HOUR)[0] == first
    worker = hire()
    hours_pass(queue, 2)
    worker.session.renew()
    assert queue.depth([TASK]).delayed == 1
    assert replaced(queue, b"3") == (first, Submitted("ready", duplicate=True))
    assert replaced(queue, b"4", delay=HOUR) == (first, Submitted("delayed", duplicate=True))
    assert queue.depth([TASK]) == Depth(0, 1, 0, None)
    hours_pass(queue, 4)
    assert [(claim.run_id, claim.envelope) for claim in worker.lane.step([], 10).claims] == [(first, b"4")]


@pytest.mark.parametrize("how", ["runs", "completed", "failed", "cancelled", "expired", "deleted"])
def test_one_that_does_not_wait_is_left_alone(queue: RedisQueue, hire, how: str) -> None:
    first, _ = replaced(queue, b"1", expires=HOUR)
    lane = hire().lane
    if how in ("runs", "completed", "failed"):
        (claim,) = lane.step([], 1).claims
        if how != "runs":
            lane.step([done(claim, state=how)], 0)
    elif how == "expired":
        hours_pass(queue, 2)
        hire().session.renew()
    else:
        queue.cancel(first)
        if how == "deleted":
            queue.command(scripts.delete.pack(queue.prefix, first))
    before = queue.record(first)
    second, answer = replaced(queue, b"2")
    assert (second != first, answer.duplicate) == (True, False)
    assert queue.record(first) == before
    assert replaced(queue, b"3")[0] == second
    assert [(claim.run_id, claim.envelope) for claim in lane.step([], 10).claims] == [(second, b"3")]


def test_what_comes_back_can_be_replaced_and_its_tokens_grow(queue: RedisQueue, hire) -> None:
    first, _ = replaced(queue, b"1")
    lane = hire().lane
    (before,) = lane.step([], 1).claims
    lane.give_back([])
    assert replaced(queue, b"2")[0] == first
    (after,) = lane.step([], 1).claims
    assert (after.envelope, after.token > before.token) == (b"2", True)
    assert lane.step([done(before)], 0).lost == [first]


def test_wishes_and_deadline_are_those_of_the_last(queue: RedisQueue, hire) -> None:
    upstream = run("shop.tasks:never")
    queue.submit(upstream)
    first, _ = replaced(queue, expires=HOUR)
    assert replaced(queue, after=(upstream.run_id,))[1] == Submitted("delayed", duplicate=True)
    assert (deadlines(queue), queue.depth([TASK])) == (0, Depth(0, 1, 0, None))
    assert replaced(queue, expires=3 * HOUR)[0] == first
    assert (deadlines(queue), queue.depth([TASK])) == (1, Depth(1, 0, 0, 0.0))
    queue.cancel(upstream.run_id)
    hours_pass(queue, 4)
    hire().session.renew()
    assert expired(queue, first)


@pytest.mark.parametrize("also", [False, True])
@pytest.mark.parametrize("how", ["completed", "failed"])
def test_it_waits_for_what_the_last_waits_for(queue: RedisQueue, hire, how: str, *, also: bool) -> None:
    """``also``: the last waits for the first's run, too."""
    before, now = run(OTHER), run(OTHER)
    queue.submit_many([before, now])
    first, _ = replaced(queue, b"1", after=(before.run_id,))
    assert replaced(queue, b"2", after=(before.run_id, now.run_id) if also else (now.run_id,))[0] == first
    upstream, lane = hire((OTHER,)).lane, hire().lane
    claims = upstream.step([], 2).claims
    upstream.step([done(claims[0], state=how)], 1)
    found = [claim.envelope for claim in lane.step([], 10).claims]
    assert found == ([b"2"] if also and how == "failed" else [])
    upstream.step([done(claims[1])], 1)
    found += [claim.envelope for claim in lane.step([], 10).claims]
    assert found == [b"2"]
    assert queue.command(pack("EXISTS", *(f"{queue.prefix}{key}" for key in ("aw", "ae", f"af:{before.run_id}")))) == 0


def test_one_that_waits_for_nothing_more_is_not_put_off(queue: RedisQueue, hire) -> None:
    before = run(OTHER)
    queue.submit(before)
    first, _ = replaced(queue, after=(before.run_id,))
    assert replaced(queue, delay=HOUR) == (first, Submitted("delayed", duplicate=True))
    queue.cancel(before.run_id)
    worker = hire()
    worker.session.renew()
    assert worker.lane.step([], 10).claims == [], "the end of the other does not make it due"
    hours_pass(queue, 2)
    assert [claim.run_id for claim in worker.lane.step([], 10).claims] == [first]


def test_an_idle_lane_has_it_at_once(queue: RedisQueue, hire) -> None:
    lane = hire().lane
    assert lane.step([], 1).claims == []
    first, _ = replaced(queue)
    assert [claim.run_id for claim in lane.wait(5.0)] == [first]


def test_all_who_submitted_it_are_told(queue: RedisQueue, open_queue, shared_server: RedisServer, hire) -> None:
    others = [open_queue(shared_server, namespace=queue.settings.namespace) for _ in range(3)]
    (run_id,) = {replaced(each)[0] for each in (*others, queue, *others)}
    told: list[set[RunId]] = []
    threads = [threading.Thread(target=lambda q=each: told.append(q.wait([run_id], 30.0))) for each in (*others, queue)]
    for thread in threads:
        thread.start()
    lane = hire().lane
    lane.step([done(claim) for claim in lane.step([], 1).claims], 0)
    for thread in threads:
        thread.join()
    assert told == [{run_id}] * 4


def _words(queue: RedisQueue, submission: Submission) -> tuple[Any, ...]:
    words = submit_call.words_of(submission, queue._client, queue.settings.result_ttl_seconds)
    return (*words, *submit_call.wishes_of(submission))


def test_a_repeated_call_changes_nothing(queue: RedisQueue, hire) -> None:
    """Its first answer was lost, and the run has begun since."""
    submission = run(envelope=b"1")
    arguments = (KEY, "nonce--1", *_words(queue, submission))
    for answer in (b"OK", b"DUP", b"DUP"):
        assert queue.call(scripts.replace.pack(queue.prefix, *arguments))[1] == answer
        hire().lane.step([], 1)
    assert queue.depth([TASK]) == Depth(0, 0, 1, None)


def test_a_call_that_is_repeated_behind_another_changes_nothing(queue: RedisQueue, hire) -> None:
    first = run(envelope=b"1")
    calls = [
        scripts.replace.pack(
            queue.prefix, KEY, f"nonce--{number}", *_words(queue, first._replace(envelope=b"%d" % number))
        )
        for number in range(1, 10)
    ]
    assert [queue.call(call)[1] for call in calls] == [b"OK", *[b"REPLACED"] * 8]
    assert [queue.call(call)[1] for call in calls[1:]] == [b"DUP"] * 8
    (claim,) = hire().lane.step([], 10).claims
    assert claim.envelope == b"9"
    assert queue.call(calls[3])[1:] == [b"DUP", b"q", first.run_id.encode()]


def test_many_at_once_leave_one_with_whole_arguments(queue: RedisQueue, hire) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(lambda number: replaced(queue, b"%03d" % number)[0], range(200))]
    (run_id,) = set(found)
    (claim,) = hire().lane.step([], 10).claims
    assert claim.run_id == run_id
    assert int(claim.envelope) in range(200)


def test_arguments_are_made_for_the_run_that_is_replaced(queue: RedisQueue, hire) -> None:
    """A worker is faster than the submit: the run that was to be replaced has begun."""
    first, _ = replaced(queue)
    lane = hire().lane
    made: list[RunId] = []

    def make(run_id: RunId) -> Submission:
        made.append(run_id)
        lane.step([], 1)
        return run(run_id=run_id)

    second, _ = queue.replace(KEY, make)
    assert made == [first, second]


def test_a_full_redis_takes_nothing(open_queue, own_server: RedisServer) -> None:
    queue = open_queue(own_server)
    first, _ = replaced(queue, b"1")
    with trouble.full(own_server), pytest.raises(QueueFull):
        replaced(queue, b"2", delay=HOUR)
    assert (queue.record(first).envelope, queue.record(first).state) == (b"1", "ready")
