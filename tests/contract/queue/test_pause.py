"""A paused task or queue: nothing more is claimed, whoever asks, until it is resumed."""

from __future__ import annotations

import threading
import time

import pytest
from tests.contract.queue.makers import TASK, done, run
from tests.servers.redis import RedisServer

from kapstan.ports import Depth
from kapstan.queue.redis import RedisQueue

OTHER = "b:b"


@pytest.mark.parametrize("name", [TASK, ""])
def test_what_is_paused_is_not_claimed_and_goes_on_when_it_is_resumed(queue: RedisQueue, hire, name: str) -> None:
    submission = run()
    queue.submit(submission)
    lane = hire((TASK, OTHER)).lane
    assert queue.pause(name)
    assert not queue.pause(name), "it was paused before"
    assert queue.paused() == [(name, "default")]
    assert lane.step([], 5).claims == []
    assert queue.depth([TASK]) == Depth(0, 0, 0, None, paused=1)
    assert queue.resume(name)
    assert not queue.resume(name)
    assert queue.paused() == []
    assert [claim.run_id for claim in lane.step([], 5).claims] == [submission.run_id]


def test_a_paused_task_holds_back_no_other(queue: RedisQueue, hire) -> None:
    waits, goes = run(), run(OTHER)
    queue.pause(TASK)
    queue.submit_many([waits, goes])
    lane = hire((TASK, OTHER)).lane
    assert [claim.run_id for claim in lane.step([], 5).claims] == [goes.run_id]


def test_a_paused_queue_holds_back_no_other_queue(queue: RedisQueue) -> None:
    queue.pause("", "slow")
    slow, fast = run(queue="slow"), run()
    queue.submit_many([slow, fast])
    for name, wanted in (("slow", []), ("default", [fast.run_id])):
        session = queue.open_session("shop", [(TASK, name)], 1)
        lane = queue.open_lane(session.name, 0, [(TASK, name)])
        assert [claim.run_id for claim in lane.step([], 5).claims] == wanted
        lane.close()
        session.close()


@pytest.mark.parametrize("how", ["submit", "submit_many", "delayed", "given back", "retried"])
def test_an_idle_lane_is_handed_nothing_that_is_paused(queue: RedisQueue, hire, how: str) -> None:
    worker, submission = hire(lanes=2), run(delay=0.01 if how == "delayed" else 0.0)
    claims = []
    if how in ("given back", "retried"):
        queue.submit(submission)
        claims = worker.lanes[1].step([], 1).claims
    assert worker.lane.step([], 1).claims == []  # it is idle now
    queue.pause(TASK)
    if how == "given back":
        worker.lanes[1].give_back([])
    elif how == "retried":
        worker.lanes[1].retry(submission.run_id, claims[0].token, 0.0)
    elif how == "submit_many":
        queue.submit_many([submission])
    else:
        queue.submit(submission)
    while queue.depth([TASK]).paused == 0:
        worker.session.renew()
    worker.session.renew()
    assert worker.lane.wait(0.05) == []
    assert queue.record(submission.run_id).state == "ready"


def test_an_idle_lane_hears_of_the_resume(queue: RedisQueue, hire, shared_server: RedisServer) -> None:
    queue.pause(TASK)
    lane, submission = hire().lane, run()
    claims = []
    waiting = threading.Thread(target=lambda: claims.extend(lane.wait(30.0)))
    waiting.start()
    with shared_server.client() as client:
        while not client.scard(f"{queue.prefix}idle:{TASK}"):
            time.sleep(0.002)
    queue.submit(submission)
    queue.resume(TASK)
    waiting.join()
    assert [claim.run_id for claim in claims] == [submission.run_id]


def test_what_a_worker_holds_goes_on_and_can_be_cancelled(queue: RedisQueue, hire) -> None:
    submissions = [run() for _ in range(3)]
    queue.submit_many(submissions)
    lane = hire().lane
    claims = lane.step([], 2).claims
    queue.pause(TASK)
    assert lane.step([done(claim) for claim in claims], 5).claims == []
    assert [record.state for record in queue.records([each.run_id for each in submissions])] == [
        "completed",
        "completed",
        "ready",
    ]
    assert queue.cancel(submissions[2].run_id) == "ready"


def test_a_pause_stays_over_a_restart(open_queue, own_server: RedisServer) -> None:
    queue = open_queue(own_server)
    queue.pause(TASK)
    own_server.kill()
    own_server.start()
    queue.submit(run())
    session = queue.open_session("shop", [TASK], 1)
    lane = queue.open_lane(session.name, 0, [TASK])
    assert lane.step([], 5).claims == []
    assert queue.paused() == [(TASK, "default")]
    lane.close()
    session.close()
