"""A command that was sent on a connection which then died, and reaches Redis after its repeat: it changes nothing.

A network does that which loses its way, or a proxy in between: the caller gives the connection up, calls again on
another one and goes on, and the first command is carried out after all. The relay holds that command back by the hash
of its script.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.contract.queue.makers import TASK, Worker, done, run, worker
from tests.servers.redis import RedisServer
from tests.servers.tcp_relay import TcpRelay

from kapstan.ids import RunId
from kapstan.ports import Claim, Submission
from kapstan.queue import scripts
from kapstan.queue.redis import RedisQueue


class Shop:
    """A worker of one lane behind the relay; the queue as others see it."""

    def __init__(self, relay: TcpRelay, behind: RedisQueue, direct: RedisQueue) -> None:
        self.relay = relay
        self.queue = direct
        self.behind = behind
        self.worker: Worker = worker(behind)
        self.lane = self.worker.lane
        self.session = self.worker.session

    def submit(self, number: int) -> list[Submission]:
        submissions = [run() for _ in range(number)]
        self.queue.submit_many(submissions)
        return submissions

    def strand(self, script: scripts.Script[...]) -> None:
        self.relay.strand(b"EVALSHA\r\n$40\r\n" + script.sha.encode())

    def holds(self, claims: list[Claim]) -> bool:
        """Whether the queue shows exactly these, and takes their outcomes."""
        return sorted(each[1:] for each in self.session.claims()) == sorted(
            (claim.run_id, claim.token) for claim in claims
        )

    def state(self, run_id: RunId) -> str:
        record = self.queue.record(run_id)
        assert record is not None
        return record.state


@pytest.fixture
def shop(shared_server: RedisServer, open_queue: Callable[..., RedisQueue]) -> Iterator[Shop]:
    direct = open_queue(shared_server)
    with TcpRelay(shared_server.port) as relay:
        url = f"redis://127.0.0.1:{relay.port}/0"
        shop = Shop(relay, open_queue(shared_server, url=url, namespace=direct.settings.namespace), direct)
        yield shop
        shop.worker.close()
        shop.behind.close()


def test_a_give_back_takes_nothing_of_what_was_claimed_after_its_repeat(shop: Shop) -> None:
    submissions = shop.submit(2)
    shop.lane.step([], 2)
    shop.strand(scripts.take_back)
    assert sorted(shop.lane.give_back([])) == sorted(each.run_id for each in submissions)
    claims = shop.lane.step([], 2).claims
    assert [claim.run_id for claim in claims] == [each.run_id for each in submissions]
    shop.relay.deliver()
    assert shop.holds(claims)
    assert shop.lane.step([done(claim) for claim in claims], 0).lost == []


def test_what_is_announced_takes_nothing_of_what_was_claimed_after_its_repeat(shop: Shop) -> None:
    shop.strand(scripts.announce)
    shop.relay.hang_up()
    (submission,) = shop.submit(1)
    (claim,) = shop.lane.step([], 1).claims
    assert claim.run_id == submission.run_id
    shop.relay.deliver()
    assert shop.holds([claim])
    assert shop.lane.step([done(claim)], 0).lost == []


def test_a_lane_that_announces_late_is_idle_all_the_same(shop: Shop) -> None:
    shop.strand(scripts.announce)
    shop.relay.hang_up()
    assert shop.lane.wait(0.0) == []
    shop.relay.deliver()
    (submission,) = shop.submit(1)
    assert [claim.run_id for claim in shop.lane.wait(5.0)] == [submission.run_id]


def test_a_step_claims_nothing_for_a_connection_that_nobody_reads(shop: Shop) -> None:
    first, second = shop.submit(2)
    shop.strand(scripts.step)
    (claim,) = shop.lane.step([], 1).claims
    assert claim.run_id == first.run_id
    shop.relay.deliver()
    assert shop.state(second.run_id) == "ready", "claimed, and no lane knows of it"
    assert shop.holds([claim])


def test_an_outcome_that_is_handed_in_late_leaves_the_lane_idle(shop: Shop) -> None:
    shop.submit(1)
    (claim,) = shop.lane.step([], 1).claims
    shop.strand(scripts.step)
    assert shop.lane.hand_in([done(claim)]) == []
    assert shop.lane.wait(0.0) == []
    shop.relay.deliver()
    (submission,) = shop.submit(1)
    assert [claim.run_id for claim in shop.lane.wait(5.0)] == [submission.run_id]


def test_a_retry_takes_nothing_of_the_next_attempt(shop: Shop) -> None:
    shop.submit(1)
    (claim,) = shop.lane.step([], 1).claims
    shop.strand(scripts.retry)
    assert shop.lane.retry(claim.run_id, claim.token, 0.0)
    (again,) = shop.lane.step([], 1).claims
    shop.relay.deliver()
    assert shop.holds([again])
    assert (again.attempt, shop.queue.depth([TASK]).ready) == (2, 0)


def test_a_death_that_is_told_late_charges_nothing_of_the_next_child(shop: Shop) -> None:
    shop.submit(1)
    (claim,) = shop.lane.step([], 1).claims
    shop.strand(scripts.lane_died)
    shop.lane.close()
    assert not shop.session.lane_died(0, claim.run_id)
    shop.worker.lanes[0] = child = shop.behind.open_lane(shop.session.name, 0, [TASK])
    (again,) = child.step([], 1).claims
    shop.relay.deliver()
    assert shop.holds([again])
    assert again.crashes == 1
    assert child.step([done(again)], 0).lost == []
