"""Waiting for ends: by whoever submitted, by other processes, by many threads over one connection."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
from tests.contract.queue.makers import TASK, done, run
from tests.servers.redis import RedisServer

from kapstan.ids import new_id
from kapstan.queue.redis import RedisQueue
from kapstan.queue.wire import pack


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


def test_the_results_of_many_that_ended_are_read_together(
    queue: RedisQueue, hire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many ends in one message few records ride along; the rest is read with the first that is asked for."""
    submissions = [run() for _ in range(200)]
    queue.submit_many(submissions)
    open_ids = {submission.run_id for submission in submissions}
    lane = hire().lane
    claims = lane.step([], 200).claims
    ended: list[set[str]] = []
    waiting = threading.Thread(target=lambda: ended.append(queue.wait(sorted(open_ids), 20.0)))
    waiting.start()
    while queue.command(pack("PUBSUB", "NUMSUB", queue.channel))[1] == 0:
        time.sleep(0.002)
    lane.step([done(claim, b"result %d" % number) for number, claim in enumerate(claims)], 0)
    waiting.join()
    while open_ids != ended[0]:
        ended[0] |= queue.wait(sorted(open_ids - ended[0]), 20.0)
    sent: list[bytes] = []
    command = queue.command
    monkeypatch.setattr(queue, "command", lambda packed: (sent.append(packed), command(packed))[1])
    results = [queue.record(submission.run_id).envelope for submission in submissions]
    assert results == [b"result %d" % number for number in range(200)]
    assert len(sent) == 1


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


class TestUnknownRuns:
    """Whoever waits for a run that the queue does not have is told so."""

    def test_one_that_was_never_accepted(self, queue: RedisQueue, hire) -> None:
        unknown, known = new_id(), run()
        queue.submit(known)
        assert queue.wait([known.run_id, unknown], 10.0) == {unknown}
        assert queue.record(unknown) is None

    def test_one_whose_record_has_expired(self, queue: RedisQueue, hire) -> None:
        submission = run()
        queue.submit(submission)
        lane = hire().lane
        lane.step([done(lane.step([], 1).claims[0])], 0)
        queue.command(pack("PEXPIRE", f"{queue.prefix}t:{submission.run_id}", 0))
        assert queue.wait([submission.run_id], 10.0) == {submission.run_id}
        assert queue.record(submission.run_id) is None

    def test_one_that_a_restart_lost_while_it_was_waited_for(
        self, open_queue, own_server: RedisServer, tmp_path
    ) -> None:
        queue = open_queue(own_server)
        kept, lost = run(), run()
        queue.submit(kept)
        own_server.save_copy(tmp_path / "copy")
        queue.submit(lost)
        told: list[set[str]] = []
        waiting = threading.Thread(target=lambda: told.append(queue.wait([kept.run_id, lost.run_id], 60.0)))
        waiting.start()
        with own_server.client() as client:
            while not client.pubsub_channels(f"{queue.prefix}c:*"):
                time.sleep(0.002)
        own_server.kill()
        own_server.put_back(tmp_path / "copy")
        own_server.start()
        waiting.join()
        assert told == [{lost.run_id}]
        assert queue.record(kept.run_id) is not None

    def test_one_that_is_submitted_later_can_be_waited_for(self, queue: RedisQueue, hire) -> None:
        submission = run()
        assert queue.wait([submission.run_id], 10.0) == {submission.run_id}
        queue.submit(submission)
        assert queue.wait([submission.run_id], 0.1) == set()
        lane = hire().lane
        lane.step([done(lane.step([], 1).claims[0])], 0)
        assert queue.wait([submission.run_id], 10.0) == {submission.run_id}


@pytest.mark.parametrize("many", [False, True])
def test_an_id_that_is_used_again_after_its_record_expired_is_a_new_run(queue: RedisQueue, hire, many: bool) -> None:
    submission = run()
    lane = hire().lane
    for result in (b"first", b"second"):
        if many:
            queue.submit_many([submission])
        else:
            queue.submit(submission)
        assert queue.wait([submission.run_id], 0.1) == set(), "an end of the run before"
        assert queue.record(submission.run_id).state in ("ready", "running")
        (claim,) = lane.step([], 1).claims
        lane.step([done(claim, result)], 0)
        assert queue.wait([submission.run_id], 10.0) == {submission.run_id}
        assert queue.record(submission.run_id).envelope == result
        queue.command(pack("DEL", f"{queue.prefix}t:{submission.run_id}"))


def test_an_end_that_was_heard_of_is_forgotten_with_the_record(open_queue, shared_server: RedisServer) -> None:
    queue = open_queue(shared_server, result_ttl_seconds=1)
    session = queue.open_session("shop", [TASK], 1)
    lane = queue.open_lane(session.name, 0, [TASK])
    submission = run()
    queue.submit(submission)
    (claim,) = lane.step([], 1).claims
    assert queue.wait([submission.run_id], 0.1) == set()
    lane.step([done(claim)], 0)
    assert queue.wait([submission.run_id], 10.0) == {submission.run_id}
    while queue.command(pack("EXISTS", f"{queue.prefix}t:{submission.run_id}")):
        time.sleep(0.002)
    end = threading.Event()
    end.wait(0.2)  # this process heard of the end a moment after the server's clock started to count
    assert queue.record(submission.run_id) is None
    lane.close()
    session.close()


def test_who_stopped_waiting_holds_no_memory_of_the_server(queue: RedisQueue, hire, shared_server) -> None:
    submissions = [run() for _ in range(30_000)]
    queue.submit_many(submissions)
    lane = hire().lane
    outcomes = [done(claim, b"x" * 1000) for claim in lane.step([], 1).claims]
    assert queue.wait([submissions[-1].run_id], 0.1) == set()
    with shared_server.client() as client:
        while client.pubsub_numsub(queue.channel)[0][1]:
            time.sleep(0.002)  # this process' subscription ends by itself
        while claims := lane.step(outcomes, 250).claims:
            outcomes = [done(claim, b"x" * 1000) for claim in claims]
        held = max(int(each["omem"]) for each in client.client_list(_type="pubsub"))
    assert held < 1_000_000
    assert queue.wait([submissions[0].run_id], 10.0) == {submissions[0].run_id}
