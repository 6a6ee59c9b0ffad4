"""Hand-over: an idle lane is given the run by whoever makes it ready; nothing polls, and no wake-up is lost."""

from __future__ import annotations

import threading
import time

import pytest
from tests.contract.queue.makers import TASK, done, run
from tests.servers.redis import RedisServer

from kapstan.queue.redis import RedisQueue
from kapstan.queue.wire import pack


def test_a_submit_hands_the_run_to_an_idle_lane(queue: RedisQueue, hire) -> None:
    lane = hire().lane
    assert lane.step([], 1).claims == []
    submission = run()
    queue.submit(submission)
    assert queue.record(submission.run_id).state == "running"
    (claim,) = lane.wait(5.0)
    assert claim.run_id == submission.run_id
    assert lane.step([done(claim)], 0).lost == []


def test_submit_many_hands_to_every_idle_lane(queue: RedisQueue, hire) -> None:
    worker = hire(lanes=3)
    for lane in worker.lanes:
        lane.step([], 1)
    queue.submit_many([run() for _ in range(4)])
    assert [len(lane.wait(5.0)) for lane in worker.lanes] == [1, 1, 1]
    assert queue.depth([TASK]).ready == 1


def test_a_lane_that_still_executes_is_not_idle(queue: RedisQueue, hire) -> None:
    queue.submit(run())
    busy, idle = hire(), hire()
    (claim,) = busy.lane.step([], 1).claims
    assert busy.lane.step([], 1).claims == []
    idle.lane.step([], 1)
    queue.submit(run())
    assert len(idle.lane.wait(5.0)) == 1
    assert busy.lane.step([done(claim)], 0).lost == []


def test_a_lane_that_was_handed_a_run_while_it_stepped_is_busy_and_handed_no_second(queue: RedisQueue, hire) -> None:
    lane = hire().lane
    lane.step([], 1)
    first, second = run(), run()
    queue.submit(first)  # handed over; the lane has not read it when it steps again
    assert [claim.run_id for claim in lane.step([], 1).claims] == [first.run_id]
    queue.submit(second)
    assert queue.record(second.run_id).state == "ready"


def test_waiting_ends_with_its_time(queue: RedisQueue, hire) -> None:
    lane = hire().lane
    assert lane.wait(0.05) == []
    queue.submit(run())
    assert len(lane.wait(5.0)) == 1


def test_waking_ends_a_wait_from_another_thread(queue: RedisQueue, hire) -> None:
    lane = hire().lane
    woken = threading.Timer(0.05, lane.wake)
    woken.start()
    began = time.monotonic()
    assert lane.wait(60.0) == []
    assert time.monotonic() - began < 30.0
    woken.join()


def test_a_wake_before_the_wait_is_not_lost(queue: RedisQueue, hire) -> None:
    lane = hire().lane
    lane.step([], 1)
    lane.wake()
    assert lane.wait(60.0) == []


def test_a_run_that_was_pushed_and_not_awaited_comes_with_the_next_step(queue: RedisQueue, hire) -> None:
    lane = hire().lane
    lane.step([], 1)
    submission = run()
    queue.submit(submission)
    assert [claim.run_id for claim in lane.step([], 0).claims] == [submission.run_id]


def test_a_lane_that_does_not_listen_is_passed_over(queue: RedisQueue, hire) -> None:
    gone, listening = hire(), hire()
    gone.lane.step([], 1)
    gone.lane.close()
    listening.lane.step([], 1)
    submissions = [run(), run()]
    queue.submit(submissions[0])
    (claim,) = listening.lane.wait(5.0)
    assert claim.run_id == submissions[0].run_id
    queue.submit(submissions[1])
    assert queue.record(submissions[1].run_id).state == "ready"
    assert queue.depth([TASK]).running == 1


def test_a_lane_of_a_draining_session_is_passed_over(queue: RedisQueue, hire) -> None:
    draining = hire()
    draining.lane.step([], 1)
    draining.session.drain()
    submission = run()
    queue.submit(submission)
    assert queue.record(submission.run_id).state == "ready"
    assert draining.session.wait(5.0)
    assert draining.session.renew().drain
    assert draining.lane.step([], 1).claims == []
    assert draining.lane.wait(0.01) == []


def test_a_delayed_run_starts_when_it_is_due(queue: RedisQueue, hire) -> None:
    worker = hire()
    worker.lane.step([], 1)
    assert worker.session.renew().next_due is None
    submission = run(delay=0.15)
    began = time.monotonic()
    queue.submit(submission)
    assert worker.session.wait(5.0)
    due = worker.session.renew().next_due
    assert 0.0 <= due <= 0.15
    assert not worker.session.wait(due)
    worker.session.renew()
    (claim,) = worker.lane.wait(5.0)
    assert time.monotonic() - began >= 0.15
    assert claim.run_id == submission.run_id


def test_a_due_run_is_promoted_by_a_step_too(queue: RedisQueue, hire) -> None:
    worker = hire()
    queue.submit(run(delay=0.02))
    assert worker.session.wait(5.0)  # of the new due time
    assert not worker.session.wait(0.03)
    assert len(worker.lane.step([], 1).claims) == 1


def test_a_later_due_time_wakes_no_supervisor(queue: RedisQueue, hire) -> None:
    worker = hire()
    queue.submit(run(delay=100.0))
    assert worker.session.wait(5.0)
    queue.submit(run(delay=200.0))
    assert not worker.session.wait(0.05)


def test_a_lost_bell_is_cured_by_a_beat(queue: RedisQueue, hire, shared_server: RedisServer) -> None:
    worker = hire()
    worker.lane.step([], 1)
    submission = run()
    with shared_server.client() as client:  # as if the submit's own hand-over had not happened
        idle = client.smembers(f"{queue.prefix}idle:{TASK}")
        client.delete(f"{queue.prefix}idle:{TASK}")
        queue.submit(submission)
        client.sadd(f"{queue.prefix}idle:{TASK}", *idle)
    assert queue.record(submission.run_id).state == "ready"
    worker.session.renew()
    assert [claim.run_id for claim in worker.lane.wait(5.0)] == [submission.run_id]


@pytest.mark.parametrize("lanes", [1, 4])
def test_submits_raced_against_blocking_lanes_lose_no_wake_up(queue: RedisQueue, hire, lanes: int) -> None:
    worker = hire(lanes=lanes)
    submissions = [run() for _ in range(1000)]
    finished = threading.Semaphore(0)
    stopping = threading.Event()
    times: dict[str, int] = {}

    def execute(lane) -> None:
        outcomes = []
        while not stopping.is_set():
            claims = lane.step(outcomes, 1).claims or lane.wait(None)
            for claim in claims:
                times[claim.run_id] = times.get(claim.run_id, 0) + 1
                finished.release()
            outcomes = [done(claim) for claim in claims]
        lane.step(outcomes, 0)

    threads = [threading.Thread(target=execute, args=(lane,)) for lane in worker.lanes]
    for thread in threads:
        thread.start()
    for submission in submissions:
        queue.submit(submission)
    for _ in submissions:
        assert finished.acquire(timeout=10.0), "a wake-up was lost"
    stopping.set()
    for lane, thread in zip(worker.lanes, threads, strict=True):
        lane.wake()
        thread.join()
    assert times == {submission.run_id: 1 for submission in submissions}
    assert {record.state for record in queue.records([s.run_id for s in submissions])} == {"completed"}


def test_an_idle_worker_sends_one_command_a_beat(open_queue, own_server: RedisServer) -> None:
    queue = open_queue(own_server)
    session = queue.open_session("shop", [TASK], 2)
    lanes = [queue.open_lane(session.name, index, [TASK]) for index in range(2)]
    waiting = [threading.Thread(target=lane.wait, args=(None,)) for lane in lanes]
    for thread in waiting:
        thread.start()
    with own_server.client() as watching, own_server.client() as marking:
        while watching.scard(f"{queue.prefix}idle:{TASK}") < 2:
            time.sleep(0.002)
        marking.ping()
        with watching.monitor() as monitor:
            for _ in range(3):
                session.wait(0.1)
                session.renew()
            marking.echo("the end")
            said = []
            for command in monitor.listen():
                if command["command"].startswith("ECHO"):
                    break
                if command["client_type"] != "lua":
                    said.append(command["command"].split(" ")[0])
    assert said == ["EVALSHA"] * 3
    for lane, thread in zip(lanes, waiting, strict=True):
        lane.wake()
        thread.join()
        lane.close()
    session.close()


class TestARecalledLaneIsFoundAgain:
    """Others may take away what a lane holds; whether it is idle is for the queue to say."""

    def assert_found(self, queue: RedisQueue, lane) -> None:
        """A lane that waits is handed what is submitted."""
        claims: list = []
        waiting = threading.Thread(target=lambda: claims.extend(lane.wait(20.0)))
        waiting.start()
        key = f"{queue.prefix}idle:{TASK}"
        while waiting.is_alive() and not queue.command(pack("SCARD", key)):
            time.sleep(0.002)
        submission = run()
        queue.submit(submission)
        assert queue.record(submission.run_id).state == "running", "a ready run waits while its lane does nothing"
        waiting.join()
        assert [claim.run_id for claim in claims] == [submission.run_id]

    def test_by_its_supervisor(self, queue: RedisQueue, hire) -> None:
        queue.submit_many([run() for _ in range(3)])
        hung, other = hire(), hire()
        first, *waiting = hung.lane.step([], 3).claims
        hung.session.take_back([(claim.run_id, claim.token) for claim in waiting])
        taken = other.lane.step([], 3).claims
        assert [claim.run_id for claim in taken] == [claim.run_id for claim in waiting]
        assert hung.lane.step([done(first)], 1).claims == []
        self.assert_found(queue, hung.lane)

    def test_by_the_end_of_its_lease(self, queue: RedisQueue, hire) -> None:
        queue.submit_many([run() for _ in range(3)])
        paused, other = hire(), hire()
        assert len(paused.lane.step([], 3).claims) == 3
        queue.expire_session(paused.session.name)
        while other.lane.step([], 3).claims:
            continue
        assert not paused.session.renew().alive
        assert paused.lane.give_back([]) == []
        self.assert_found(queue, paused.lane)

    def test_while_what_was_handed_to_it_is_on_its_way(self, queue: RedisQueue, hire) -> None:
        lane = hire().lane
        lane.step([], 1)
        first = run()
        queue.submit(first)
        assert lane.give_back([]) == []  # not read yet
        assert [claim.run_id for claim in lane.wait(5.0)] == [first.run_id], "claimed anew"
        assert queue.record(first.run_id).token.epoch == 2

    @pytest.mark.parametrize("connection", ["stays", "breaks"])
    def test_by_its_supervisor_before_it_has_read_what_was_handed_to_it(
        self, queue: RedisQueue, hire, connection: str
    ) -> None:
        """It does not begin what somebody else has been given meanwhile, although the message comes in the end."""
        slow, quick = hire(), hire()
        assert slow.lane.step([], 1).claims == []
        queue.submit(run())
        ((_, handed, token),) = slow.session.claims()  # or the fault does not bite
        slow.session.take_back([(handed, token)])
        (claim,) = quick.lane.step([], 1).claims
        assert claim.run_id == handed
        if connection == "breaks":
            queue.command(pack("CLIENT", "KILL", "TYPE", "pubsub"))
        slow.lane.wake()
        assert slow.lane.wait(5.0) == []
        slow.lane.give_back_all()
        assert slow.lane.step([], 1).claims == []
        assert slow.lane.wait(0.0) == []
        assert quick.lane.step([done(claim)], 0).lost == []
        self.assert_found(queue, slow.lane)

    def test_a_run_that_nobody_knows_of_goes_back_before_a_lane_waits(self, queue: RedisQueue, hire) -> None:
        queue.submit(run())
        lane = hire().lane
        (claim,) = lane.step([], 1).claims
        # As if the retry of it had not reached the queue: the caller has done with it and waits for the next.
        (again,) = lane.wait(5.0)
        assert (again.run_id, again.attempt) == (claim.run_id, 1)
        assert again.token > claim.token


def test_more_runs_than_one_script_hands_over_reach_every_idle_lane(queue: RedisQueue, hire) -> None:
    worker = hire(lanes=3)
    cancelled = [run() for _ in range(5300)]
    queue.submit_many([run(), *cancelled, run()])
    (first,) = worker.lanes[0].step([], 1).claims
    for submission in cancelled[1:-1:2] + cancelled[2:-1:2] + [cancelled[0], cancelled[-1]]:
        queue.cancel(submission.run_id)
    assert queue.depth([TASK]).ready == 1, "what was cancelled is no backlog"
    assert len(worker.lanes[1].wait(5.0)) == 1
    assert worker.lanes[2].wait(0.0) == []
    assert worker.lanes[0].step([done(first)], 1).claims == []
    assert queue.command(pack("LLEN", f"{queue.prefix}q:{TASK}")) == 0


def test_a_run_behind_cancelled_ones_is_handed_over_at_once(queue: RedisQueue, hire) -> None:
    """No lane looked at the list since they were cancelled; the idle one is told by the submit."""
    lane = hire().lane
    key = f"{queue.prefix}idle:{TASK}"
    cancelled = [run() for _ in range(5500)]
    queue.submit_many(cancelled)
    for submission in [*cancelled[1:-1], cancelled[0], cancelled[-1]]:
        queue.cancel(submission.run_id)
    stale = queue.command(pack("LRANGE", f"{queue.prefix}q:{TASK}", 0, -1))
    assert len(stale) == 5498
    queue.command(pack("DEL", f"{queue.prefix}q:{TASK}"))
    assert lane.wait(0.0) == []
    queue.command(pack("RPUSH", f"{queue.prefix}q:{TASK}", *stale))  # they come after the lane looked
    assert queue.command(pack("SCARD", key)) == 1
    submission = run()
    queue.submit(submission)
    assert [claim.run_id for claim in lane.wait(5.0)] == [submission.run_id]


def test_counts_of_what_is_over_go(queue: RedisQueue, hire) -> None:
    worker = hire()
    later, middle, ready = run(delay=3600.0), run(), run()
    queue.submit_many([later])
    queue.submit_many([run(), middle, ready])
    claims = worker.lane.step([], 1).claims
    queue.submit(run())
    for submission in (later, ready):
        queue.cancel(submission.run_id)
    assert set(queue.command(pack("HGETALL", f"{queue.prefix}n"))) == {f"{kind}:{TASK}".encode() for kind in "rk"}
    claims += worker.lane.step([], 10).claims
    worker.lane.step([done(claim) for claim in claims], 0)
    assert queue.command(pack("HGETALL", f"{queue.prefix}n")) == {}
