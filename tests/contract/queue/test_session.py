"""Sessions: the lease, its end by time or by word of mouth, crashes that are charged to the run that caused them."""

from __future__ import annotations

import time

import pytest
from tests.contract.queue.makers import TASK, Register, done, run
from tests.servers.redis import RedisServer

from kapstan.errors import ConfigurationError
from kapstan.queue.redis import RedisQueue
from kapstan.queue.wire import pack


def test_a_session_shows_itself(queue: RedisQueue, hire) -> None:
    worker = hire(("a:a", TASK), lanes=3, name="pod-1.nonce")
    queue.submit_many([run(), run()])
    worker.lane.step([], 2)
    (info,) = queue.sessions()
    assert (info.session, info.worker, info.tasks, info.lanes) == ("pod-1.nonce", "shop", ("a:a", TASK), 3)
    assert (info.claimed, info.draining) == (2, False)
    assert 9.0 < info.lease_left <= 10.0


def test_a_beat_prolongs_the_lease(queue: RedisQueue, hire) -> None:
    worker = hire()
    renewed = worker.session.renew()
    assert (renewed.alive, renewed.drain, renewed.cancelled, renewed.reaped) == (True, False, [], [])


def test_a_silent_session_is_reaped_and_its_runs_go_on_elsewhere(open_queue, shared_server: RedisServer) -> None:
    queue = open_queue(shared_server, lease_seconds=0.1)
    silent = queue.open_session("shop", [TASK], 1)
    lane = queue.open_lane(silent.name, 0, [TASK])
    queue.submit(run())
    (claim,) = lane.step([], 1).claims
    other = queue.open_session("shop", [TASK], 1)
    heir = queue.open_lane(other.name, 0, [TASK])
    assert heir.step([], 1).claims == []
    reaped: list[str] = []
    while not reaped:
        other.wait(0.02)
        reaped = other.renew().reaped
    assert reaped == [silent.name]
    (taken,) = heir.wait(5.0)
    assert taken.run_id == claim.run_id
    assert lane.step([done(claim)], 0).lost == [claim.run_id]
    assert silent.wait(5.0), "the session's own supervisor hears of its end"
    assert not silent.renew().alive
    assert silent.renew().alive
    for part in (lane, heir, silent, other):
        part.close()


def test_a_renewal_tells_when_the_lease_of_a_silent_session_ends(queue: RedisQueue, open_queue, shared_server) -> None:
    session = queue.open_session("shop", [TASK], 1)
    assert session.renew().next_due is None, "its own lease is no reason to look sooner"
    brief = open_queue(shared_server, namespace=queue.settings.namespace, lease_seconds=4.0, beat_seconds=1.0)
    other = brief.open_session("shop", [TASK], 1)
    assert session.renew().next_due is None, "it has renewed since"
    assert 3.0 < session.renew().next_due <= 4.0
    other.renew()
    queue.submit(run(delay=1.0))
    assert 0.0 < session.renew().next_due <= 1.0
    other.close()
    session.close()


class TestClock:
    """The clock of the server's machine is set, by an hour."""

    HOUR = 3_600_000

    def set_clock(self, queue: RedisQueue, by: int) -> None:
        """What is stored looks as if it had been written before the server's clock was set by ``by`` ms."""
        shown = queue.command(pack("HGET", f"{queue.prefix}m", "clock"))
        queue.command(pack("HSET", f"{queue.prefix}m", "clock", int(shown) - by))
        for run_id, due in queue.command(pack("ZRANGE", f"{queue.prefix}d", 0, -1, "WITHSCORES")):
            queue.command(pack("ZADD", f"{queue.prefix}d", round(due - by), run_id))

    @pytest.mark.parametrize("by", [HOUR, -HOUR])
    def test_ends_no_session(self, queue: RedisQueue, hire, by: int) -> None:
        first, second = hire(), hire()
        for worker in (first, second):
            worker.session.renew()
        self.set_clock(queue, by)
        for worker in (first, second, first, second):
            renewed = worker.session.renew()
            assert (renewed.alive, renewed.reaped) == (True, [])

    def test_backwards_delays_nothing(self, queue: RedisQueue, hire) -> None:
        worker = hire()
        queue.submit(run(delay=0.3))
        worker.session.renew()
        self.set_clock(queue, -self.HOUR)
        due = worker.session.renew().next_due
        assert 0.0 <= due <= 0.3
        deadline = time.monotonic() + 5.0
        while not worker.lane.step([], 1).claims:
            assert time.monotonic() < deadline
        queue.submit(run(delay=50.0))
        assert 49.0 < worker.session.renew().next_due <= 50.0

    def test_and_set_right_again_starts_nothing_early(self, queue: RedisQueue, hire) -> None:
        worker = hire()
        worker.session.renew()
        self.set_clock(queue, -self.HOUR)
        worker.session.renew()
        queue.submit(run(delay=600.0))
        shift = int(queue.command(pack("HGET", f"{queue.prefix}m", "shift")))
        assert self.HOUR - 60_000 < shift <= self.HOUR
        self.set_clock(queue, self.HOUR)
        assert 590.0 < worker.session.renew().next_due <= 600.0


def test_a_lane_steps_again_when_its_session_is_opened_anew(queue: RedisQueue, hire) -> None:
    worker = hire()
    worker.lane.step([], 1)
    queue.expire_session(worker.session.name)
    submission = run()
    queue.submit(submission)
    assert queue.record(submission.run_id).state == "ready"
    assert not worker.session.renew().alive
    assert [claim.run_id for claim in worker.lane.wait(5.0)] == [submission.run_id]


def test_expiry_by_prefix_ends_every_session_of_a_pod_that_is_gone(queue: RedisQueue, hire) -> None:
    mine = [hire(name="pod-1.a"), hire(name="pod-1.b")]
    hire(name="pod-10.a")
    queue.submit_many([run(), run()])
    for worker in mine:
        assert len(worker.lane.step([], 1).claims) == 1
        worker.die()
    assert queue.expire_session("pod-1") == ["pod-1.a", "pod-1.b"]
    assert [info.session for info in queue.sessions()] == ["pod-10.a"]
    assert queue.depth([TASK]).ready == 2
    assert queue.expire_session("pod-1.") == []


def test_a_late_expiry_leaves_the_next_start_of_the_pod_alone(queue: RedisQueue, hire) -> None:
    """The pod's container died and was started again before anybody said so."""
    before, after = hire(name="pod-1-first"), hire(name="pod-1-second")
    queue.submit_many([run(), run()])
    for worker in (before, after):
        assert len(worker.lane.step([], 1).claims) == 1
    before.die()
    assert queue.expire_session("pod-1") == ["pod-1-first"]
    assert queue.expire_session("pod-1") == []
    assert after.session.renew().alive
    assert queue.depth([TASK])[:3] == (1, 0, 1)


@pytest.mark.parametrize("runs", [1, 3])
def test_the_end_of_a_session_charges_nobody(queue: RedisQueue, hire, runs: int) -> None:
    """An eviction, a lost node, a sleeping machine: nothing says that a run ended the process."""
    queue.submit_many([run() for _ in range(runs)])
    for _ in range(4):
        worker = hire()
        claims = worker.lane.step([], 10).claims
        assert [claim.crashes for claim in claims] == [0] * runs
        worker.die()
        assert queue.expire_session(worker.session.name) == [worker.session.name]


def test_closing_charges_nobody(queue: RedisQueue, hire) -> None:
    queue.submit(run())
    session = queue.open_session("shop", [TASK], 1)
    lane = queue.open_lane(session.name, 0, [TASK])
    lane.step([], 1)
    lane.close()
    session.close()
    assert queue.sessions() == []
    assert hire().lane.step([], 1).claims[0].crashes == 0


def test_drain_by_name_tells_the_supervisor(queue: RedisQueue, hire) -> None:
    worker, other = hire(name="pod-1.a"), hire(name="pod-2.a")
    assert queue.drain_session("pod-1") == ["pod-1.a"]
    assert worker.session.wait(5.0)
    assert worker.session.renew().drain
    assert not other.session.renew().drain
    queue.submit_many([run(), run()])
    assert worker.lane.step([], 1).claims == []
    assert len(other.lane.step([], 1).claims) == 1
    assert {info.session: info.draining for info in queue.sessions()} == {"pod-1.a": True, "pod-2.a": False}


def test_a_draining_session_finishes_what_it_holds(queue: RedisQueue, hire) -> None:
    queue.submit_many([run(), run()])
    worker = hire()
    (claim,) = worker.lane.step([], 1).claims
    worker.session.drain()
    stepped = worker.lane.step([done(claim)], 1)
    assert (stepped.lost, stepped.claims) == ([], [])
    assert queue.record(claim.run_id).state == "completed"


class TestLaneDied:
    def test_charges_the_executing_run_alone(self, queue: RedisQueue, hire) -> None:
        queue.submit_many([run(), run(), run()])
        worker = hire(lanes=2)
        (other,) = worker.lanes[1].step([], 1).claims
        executing, waiting = worker.lanes[0].step([], 2).claims
        assert not worker.session.lane_died(0, executing.run_id)
        claims = worker.lanes[1].step([done(other)], 10).claims
        assert [(claim.run_id, claim.crashes) for claim in claims] == [(executing.run_id, 1), (waiting.run_id, 0)]

    def test_an_idle_child_charges_nobody(self, queue: RedisQueue, hire) -> None:
        queue.submit(run())
        worker = hire()
        worker.lane.step([], 1)
        assert not worker.session.lane_died(0, None)
        assert worker.lane.step([], 1).claims[0].crashes == 0

    def test_the_third_crash_quarantines_the_run_with_the_reason(self, queue: RedisQueue, hire) -> None:
        queue.submit(run())
        worker = hire()
        for crash in range(3):
            (claim,) = worker.lane.step([], 1).claims
            assert claim.crashes == crash
            assert worker.session.lane_died(0, claim.run_id, b"reason") == (crash == 2)
        record = queue.record(claim.run_id)
        assert (record.state, record.crashes, record.envelope) == ("crashed", 3, b"reason")
        assert worker.lane.step([], 1).claims == []
        assert queue.wait([claim.run_id], 5.0) == {claim.run_id}

    def test_a_dead_lane_is_handed_nothing(self, queue: RedisQueue, hire) -> None:
        worker = hire()
        worker.lane.step([], 1)
        worker.session.lane_died(0, None)
        submission = run()
        queue.submit(submission)
        assert queue.record(submission.run_id).state == "ready"


@pytest.mark.parametrize(("name", "lanes", "named"), [("a b", 1, "session='a b'"), ("a", 0, "lanes=0")])
def test_a_session_that_cannot_be_is_refused(queue: RedisQueue, name: str, lanes: int, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        queue.open_session("shop", [TASK], lanes, session=name)


def test_the_first_session_raises_the_era_from_the_register(open_queue, shared_server: RedisServer) -> None:
    register = Register()
    register.era = 41  # of another start
    queue = open_queue(shared_server, register)
    queue.submit(run())
    session = queue.open_session("shop", [TASK], 1)
    lane = queue.open_lane(session.name, 0, [TASK])
    assert lane.step([], 1).claims[0].token.era == register.era == 42
    lane.close()
    session.close()
