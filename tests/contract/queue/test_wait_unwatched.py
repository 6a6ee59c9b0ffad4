"""Runs that are submitted while their client listens already: their ends come without a script that watches them."""

from __future__ import annotations

import pytest
from tests.contract.queue.makers import Worker, done, run
from tests.servers.redis import RedisServer

from kapstan.errors import IdempotencyConflict
from kapstan.ids import RunId, new_id
from kapstan.queue.redis import RedisQueue


def ends(queue: RedisQueue, worker: Worker, **fields: object) -> RunId:
    """Submit a run and end it."""
    submission = run(**fields)
    queue.submit(submission)
    claims = worker.lane.step([], 1).claims
    worker.lane.step([done(claim) for claim in claims], 0)
    return submission.run_id


def listens(queue: RedisQueue) -> None:
    """Have the client listen: it has waited just now, for a run that nobody knows."""
    run_id = new_id()
    assert queue.wait([run_id], 30.0) == {run_id}


def calls(server: RedisServer, command: str = "evalsha") -> int:
    with server.client() as client:
        return client.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]


def test_no_script_is_called_for_one_that_ends_soon(queue: RedisQueue, hire, shared_server: RedisServer) -> None:
    worker = hire()
    listens(queue)
    before = calls(shared_server)
    run_id = ends(queue, worker)
    assert queue.wait([run_id], 30.0) == {run_id}
    assert calls(shared_server) - before == 3, "a submit and two steps"


def test_one_with_a_deadline_is_watched(queue: RedisQueue, hire, shared_server: RedisServer) -> None:
    worker = hire()
    listens(queue)
    before = calls(shared_server)
    run_id = ends(queue, worker, expires=60.0)
    assert queue.wait([run_id], 30.0) == {run_id}
    assert calls(shared_server) - before == 4
    first = run()
    queue.submit(first)
    submission = run(after=(first.run_id,))
    queue.submit(submission)
    assert queue.wait([submission.run_id], 0.0) == set()
    assert calls(shared_server) - before == 7


def test_one_that_the_server_has_lost_since_is_told_of(open_queue, own_server: RedisServer) -> None:
    queue = open_queue(own_server)
    listens(queue)
    submission = run()
    queue.submit(submission)
    with own_server.client() as client:
        client.flushall()
    assert queue.wait([submission.run_id], 30.0) == {submission.run_id}
    assert queue.record(submission.run_id) is None


def test_one_that_was_there_before_is_watched(queue: RedisQueue, hire, open_queue, shared_server: RedisServer) -> None:
    worker = hire()
    other = open_queue(shared_server, namespace=queue.settings.namespace)
    submission = run()
    other.submit(submission)
    worker.lane.step([done(claim) for claim in worker.lane.step([], 1).claims], 0)
    listens(queue)
    assert queue.submit(submission).duplicate
    assert queue.wait([submission.run_id], 30.0) == {submission.run_id}


def test_one_that_was_refused_is_not_expected(queue: RedisQueue, hire, open_queue, shared_server: RedisServer) -> None:
    worker = hire()
    other = open_queue(shared_server, namespace=queue.settings.namespace)
    submission = run()
    other.submit(submission)
    listens(queue)
    with pytest.raises(IdempotencyConflict):
        queue.submit(submission._replace(fingerprint="other-inputs"))
    worker.lane.step([done(claim) for claim in worker.lane.step([], 1).claims], 0)
    assert queue.wait([submission.run_id], 30.0) == {submission.run_id}


def test_a_connection_that_breaks_meanwhile_has_all_of_them_watched(open_queue, own_server: RedisServer) -> None:
    queue = open_queue(own_server)
    listens(queue)
    submission = run()
    queue.submit(submission)
    own_server.kill()
    own_server.start()
    with own_server.client() as client:
        client.delete(f"{queue.prefix}t:{submission.run_id}")
    assert queue.wait([submission.run_id], 30.0) == {submission.run_id}, "unknown"


def test_lanes_that_listen_say_that_the_server_goes_on(queue: RedisQueue, hire, shared_server: RedisServer) -> None:
    worker = hire()
    worker.lane.step([], 1)
    asked = calls(shared_server, "info")
    for _ in range(5):
        queue.submit(run())
        worker.lane.step([done(claim) for claim in worker.lane.wait(30.0)], 1)
    assert calls(shared_server, "info") - asked == 1, "this test's own"
