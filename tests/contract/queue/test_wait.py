"""Waiting for ends: by whoever submitted, by other processes, by many threads over one connection."""

from __future__ import annotations

import subprocess
import sys
import threading

from tests.contract.queue.makers import done, run
from tests.servers.redis import RedisServer

from kapstan.ids import new_id
from kapstan.queue.redis import RedisQueue


def test_an_end_that_came_before_is_seen(queue: RedisQueue, hire) -> None:
    submission = run()
    queue.submit(submission)
    lane = hire().lane
    lane.step([done(lane.step([], 1).claims[0])], 0)
    assert queue.wait([submission.run_id], 5.0) == {submission.run_id}
    assert queue.record(submission.run_id).envelope == b"result"


def test_waiting_ends_with_its_time(queue: RedisQueue) -> None:
    submission = run()
    queue.submit(submission)
    assert queue.wait([submission.run_id], 0.05) == set()
    assert queue.wait([new_id()], 0.0) == set()


def test_threads_that_wait_for_different_runs_share_one_connection(queue: RedisQueue, hire, shared_server) -> None:
    submissions = [run() for _ in range(20)]
    queue.submit_many(submissions)
    ended: dict[str, set[str]] = {}

    def wait(run_id: str) -> None:
        ended[run_id] = queue.wait([run_id], 20.0)

    with shared_server.client() as client:
        before = len(client.client_list())
        threads = [threading.Thread(target=wait, args=(submission.run_id,)) for submission in submissions]
        for thread in threads:
            thread.start()
        lane = hire().lane
        claims = lane.step([], 20).claims
        assert len(client.client_list()) <= before + 4  # inbox, session, lane, and a command of the session
    for claim in reversed(claims):
        lane.step([done(claim)], 0)
    for thread in threads:
        thread.join()
    assert ended == {submission.run_id: {submission.run_id} for submission in submissions}


def test_an_outcome_too_large_to_ride_along_is_read(queue: RedisQueue, hire) -> None:
    submission = run()
    queue.submit(submission)
    lane = hire().lane
    assert queue.wait([submission.run_id], 0.0) == set()
    claim = lane.step([], 1).claims[0]
    lane.step([done(claim, b"x" * 5000)], 0)
    assert queue.wait([submission.run_id], 5.0) == {submission.run_id}
    assert queue.record(submission.run_id).envelope == b"x" * 5000


def test_every_end_of_a_large_set_arrives(queue: RedisQueue, hire) -> None:
    submissions = [run() for _ in range(1200)]
    queue.submit_many(submissions)
    open_ids = {submission.run_id for submission in submissions}
    assert queue.wait(sorted(open_ids), 0.0) == set()

    def work() -> None:
        lane = hire().lane
        outcomes = []
        while claims := lane.step(outcomes, 100).claims:
            outcomes = [done(claim) for claim in claims]

    thread = threading.Thread(target=work)
    thread.start()
    while open_ids:
        ended = queue.wait(sorted(open_ids), 10.0)
        assert ended
        open_ids -= ended
    thread.join()


def test_a_cancelled_run_ends_a_wait(queue: RedisQueue) -> None:
    submission = run()
    queue.submit(submission)
    assert queue.wait([submission.run_id], 0.0) == set()
    queue.cancel(submission.run_id)
    assert queue.wait([submission.run_id], 5.0) == {submission.run_id}
    assert queue.record(submission.run_id).state == "cancelled"


def test_another_client_waits_by_id(queue: RedisQueue, hire, open_queue, shared_server: RedisServer) -> None:
    other = open_queue(shared_server, namespace=queue.settings.namespace)
    submission = run()
    queue.submit(submission)
    assert other.wait([submission.run_id], 0.0) == set()
    lane = hire().lane
    lane.step([done(lane.step([], 1).claims[0])], 0)
    assert other.wait([submission.run_id], 5.0) == {submission.run_id}


_WAITER = """
import sys
from kapstan.queue.redis import RedisQueue
from kapstan.settings import Settings
url, namespace, run_id = sys.argv[1:]
queue = RedisQueue(Settings(redis_url=url, namespace=namespace), None)
print("waiting" if queue.wait([run_id], 0.0) == set() else "ended", flush=True)
queue.wait([run_id], 30.0)
print(queue.record(run_id).envelope.decode(), flush=True)
queue.close()
"""


def test_another_process_waits_by_id(queue: RedisQueue, hire, shared_server: RedisServer) -> None:
    submission = run()
    queue.submit(submission)
    command = [sys.executable, "-c", _WAITER, shared_server.url, queue.settings.namespace, submission.run_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "waiting\n"
        lane = hire().lane
        lane.step([done(lane.step([], 1).claims[0], b"from afar")], 0)
        assert process.stdout.readline() == "from afar\n"
    assert process.returncode == 0
