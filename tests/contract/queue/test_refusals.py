"""A Redis that answers and takes no writes for a while: clear errors, nothing half done, all goes on afterwards."""

from __future__ import annotations

import socket

import pytest
from tests.contract.queue.conftest import server_program
from tests.contract.queue.makers import TASK, done, run, worker
from tests.servers import trouble
from tests.servers.redis import RedisServer

from kapstan.errors import BackendError, ConfigurationError, QueueFull, QueueUnavailable
from kapstan.ids import new_id
from kapstan.queue.wire import Refused, refusal


@pytest.mark.parametrize("name", sorted(trouble.REFUSING))
class TestRefusing:
    def test_every_call_is_an_outage_and_goes_on_afterwards(
        self, open_queue, own_server: RedisServer, name: str
    ) -> None:
        word, brought_about = trouble.REFUSING[name]
        queue = open_queue(own_server, redis_retry_seconds=0.3)
        first, second = run(), run()
        queue.submit(first)
        shop = worker(queue)
        (claim,) = shop.lane.step([], 1).claims
        with brought_about(own_server):
            trouble.await_refusal(own_server, True)
            assert trouble.refusal(own_server) == word
            for call in (
                lambda: queue.submit(second),
                lambda: queue.submit_many([second]),
                lambda: queue.cancel(first.run_id),
                lambda: queue.wait([first.run_id], 5.0),
                shop.session.renew,
                lambda: shop.lane.step([done(claim)], 1),
                lambda: shop.lane.give_back([]),
                lambda: shop.lane.retry(claim.run_id, claim.token, 1.0),
            ):
                with pytest.raises(QueueUnavailable, match=rf"took no writes for 0.3 s .*({word}|{name.upper()})"):
                    call()
            if name in ("masterdown", "busy", "loading"):  # these refuse to be read, too
                with pytest.raises(QueueUnavailable, match=name.upper()):
                    queue.record(second.run_id)
        trouble.await_refusal(own_server, False)
        assert queue.record(second.run_id) is None, "nothing half done"
        assert shop.session.renew().alive
        stepped = shop.lane.step([done(claim)], 1)
        assert stepped.lost == []
        assert queue.record(first.run_id).state == "completed"
        assert queue.submit(second).duplicate is False
        (taken,) = stepped.claims or shop.lane.wait(10.0)
        assert (taken.run_id, taken.crashes, taken.token.epoch) == (second.run_id, 0, 1)
        shop.close()

    def test_a_wait_outlasts_it(self, open_queue, own_server: RedisServer, name: str) -> None:
        queue = open_queue(own_server, redis_retry_seconds=30.0)
        submission = run()
        queue.submit(submission)
        shop = worker(queue)
        (claim,) = shop.lane.step([], 1).claims
        with trouble.REFUSING[name][1](own_server):
            trouble.await_refusal(own_server, True)
            assert queue.wait([submission.run_id], 0.5) == set()
        shop.session.renew()  # one of the refusals ends with another start of the server
        shop.lane.step([done(claim)], 0)
        assert queue.wait([submission.run_id], 10.0) == {submission.run_id}
        shop.close()

    def test_who_asks_now_learns_of_an_end_that_came_before(
        self, open_queue, own_server: RedisServer, name: str
    ) -> None:
        """To be told of ends a client writes itself down, which is refused; an end that is there is read."""
        ended, open_run = run(), run()
        submitter = open_queue(own_server)
        submitter.submit_many([ended, open_run])
        shop = worker(submitter)
        (claim,) = shop.lane.step([], 1).claims
        shop.lane.step([done(claim)], 0)
        asking = open_queue(own_server, namespace=submitter.settings.namespace, redis_retry_seconds=0.3)
        asking.depth([TASK])
        with trouble.REFUSING[name][1](own_server):
            trouble.await_refusal(own_server, True)
            if name in ("masterdown", "busy", "loading"):
                with pytest.raises(QueueUnavailable):
                    asking.wait([ended.run_id], 5.0)
            else:
                assert asking.wait([open_run.run_id, ended.run_id], 60.0) == {ended.run_id}
                assert asking.wait([open_run.run_id, new_id()], 0.1) == set(), "not there is not lost: a replica lags"
        shop.close()


class TestFull:
    """No memory for what is new; what was accepted goes on."""

    def test_a_submit_is_refused_whole_and_workers_go_on(self, open_queue, own_server: RedisServer) -> None:
        queue = open_queue(own_server)
        submissions = [run(), run()]
        queue.submit_many(submissions)
        shop = worker(queue)
        (claim,) = shop.lane.step([], 1).claims
        refused = run()
        with trouble.full(own_server):
            for call in (lambda: queue.submit(refused), lambda: queue.submit_many([refused])):
                with pytest.raises(QueueFull, match="nothing was accepted; raise maxmemory") as raised:
                    call()
                assert raised.value.accepted == ()
            assert queue.record(refused.run_id) is None
            assert shop.session.renew().alive
            (second,) = shop.lane.step([done(claim)], 1).claims
            assert queue.wait([claim.run_id], 5.0) == {claim.run_id}
            assert shop.lane.step([done(second)], 1).lost == []
        queue.submit(refused)
        assert [claim.run_id for claim in shop.lane.wait(5.0)] == [refused.run_id]
        shop.close()

    def test_a_bulk_submit_names_what_was_accepted(self, open_queue, own_server: RedisServer) -> None:
        queue = open_queue(own_server)
        queue.depth([TASK])
        submissions = [run() for _ in range(2500)]

        def drawn():
            for number, submission in enumerate(submissions):
                if number == 1500:
                    with own_server.client() as client:
                        client.config_set("maxmemory", 1)
                yield submission

        with pytest.raises(QueueFull, match="runs of this call were accepted before, and will run") as raised:
            queue.submit_many(drawn())
        with own_server.client() as client:
            client.config_set("maxmemory", 0)
        found = queue.records([submission.run_id for submission in submissions])
        there = {record.run_id for record in found if record is not None}
        assert set(raised.value.accepted) == there
        assert 1000 <= len(there) <= 1500


@pytest.mark.parametrize("word", ["CLUSTERDOWN", "TRYAGAIN", "LOADING", "UNKILLABLE", "NOGOODSLAVE"])
def test_refusals_that_pass_are_told_from_mistakes(word: str) -> None:
    assert isinstance(refusal(f"{word} for a while"), Refused)
    assert type(refusal("ERR wrong number of arguments")) is BackendError


@pytest.mark.parametrize("slots", ["none", "some", "all"])
def test_a_redis_cluster_is_refused_by_name_in_every_state(open_queue, tmp_path, kind: str, slots: str) -> None:
    """Before a script could be: with slots that nobody serves it would be CLUSTERDOWN, an outage without end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        bus = str(probe.getsockname()[1])
    options = ("--cluster-enabled", "yes", "--cluster-port", bus)
    server = RedisServer(tmp_path / "cluster", server_program(kind), options)
    server.start()
    try:
        with server.client() as client:
            if slots != "none":
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383 if slots == "all" else 8191)
            while slots == "all" and b"cluster_state:ok" not in _cluster_info(server):
                continue
            if slots != "all":
                assert b"cluster_state:fail" in _cluster_info(server)
        with pytest.raises(ConfigurationError, match="node of a Redis Cluster"):
            open_queue(server).submit(run())
    finally:
        server.stop()


def _cluster_info(server: RedisServer) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall(b"CLUSTER INFO\r\n")
        return line.recv(4096)
