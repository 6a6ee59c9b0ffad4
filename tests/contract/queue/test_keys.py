"""The table of keys: what a run leaves behind is in it, of its type, and does not stay for ever."""

from __future__ import annotations

import pytest
from tests.contract.queue.makers import CODEC, TASK, done, run
from tests.servers.redis import RedisServer

from kapstan.errors import ConfigurationError
from kapstan.queue.flow_runs import RedisFlowRuns
from kapstan.queue.keys import KEYS, prefix_of, spec_of
from kapstan.queue.record import TERMINAL
from kapstan.queue.redis import RedisQueue


def left_behind(queue: RedisQueue, server: RedisServer) -> dict[str, tuple[str, int]]:
    """Key without prefix -> type and TTL (-1: none)."""
    with server.client() as client:
        keys = [key.decode() for key in client.scan_iter(f"{queue.prefix}*")]
        return {key[len(queue.prefix) :]: (client.type(key).decode(), client.ttl(key)) for key in keys}


def busy_day(queue: RedisQueue, hire, open_queue, server: RedisServer) -> None:
    """Something of everything: ends of each kind, waits, retries, crashes, a drain, flow runs."""
    worker = hire((TASK, "b:b"), lanes=2)
    submissions = [run() for _ in range(6)]
    queue.submit_many([*submissions, run("b:b", delay=0.01)])
    open_queue(server, namespace=queue.settings.namespace).wait([submissions[0].run_id], 0.0)
    claims = worker.lane.step([], 4).claims
    worker.lane.step([done(claims[0]), done(claims[1], state="failed")], 0)
    worker.lane.retry(claims[2].run_id, claims[2].token, 0.01)
    worker.lane.give_back([])
    for submission in submissions[4:]:
        queue.cancel(submission.run_id)
    (executing,) = worker.lanes[1].step([], 1).claims
    worker.session.lane_died(1, executing.run_id)
    while queue.depth([TASK, "b:b"]).ready + queue.depth([TASK, "b:b"]).delayed:
        worker.lane.step([done(claim) for claim in worker.lane.step([], 5).claims], 0)
    worker.lane.step([], 1)
    runs = RedisFlowRuns(queue, CODEC)
    runs.save(submissions[0].run_id, {"state": "RUNNING"})
    lease = runs.lease(submissions[0].run_id, 1, "me")
    assert lease is not None
    assert lease.renew()


def test_every_key_is_in_the_table(queue: RedisQueue, hire, open_queue, shared_server: RedisServer) -> None:
    busy_day(queue, hire, open_queue, shared_server)
    for key, (kind, _) in left_behind(queue, shared_server).items():
        spec = spec_of(key)
        assert spec is not None, f"{key} is not in the table"
        assert kind == spec.type, key


def test_nothing_stays_for_ever_but_what_is_permanent(
    queue: RedisQueue, hire, open_queue, shared_server: RedisServer
) -> None:
    busy_day(queue, hire, open_queue, shared_server)
    for name in [info.session for info in queue.sessions()]:
        queue.expire_session(name)
    for key, (_, ttl) in left_behind(queue, shared_server).items():
        spec = spec_of(key)
        assert spec is not None
        assert (ttl == -1) == (spec.life == "permanent"), f"{key}: TTL {ttl}, declared {spec.life}"


def test_a_run_that_has_not_ended_never_expires(queue: RedisQueue, hire, shared_server: RedisServer) -> None:
    queue.submit_many([run(), run(), run(delay=60.0)])
    hire().lane.step([], 1)
    with shared_server.client() as client:
        records = {key: client.get(key) for key in client.scan_iter(f"{queue.prefix}t:*")}
        assert len(records) == 3
        assert not any(record[1] in TERMINAL for record in records.values())
        assert [client.ttl(key) for key in records] == [-1, -1, -1]


def test_a_queued_run_is_small(open_queue, own_server: RedisServer) -> None:
    """200 bytes of arguments, signed: at most 480 bytes of Redis memory, and 28 for its part of an entry in a list."""
    queue = open_queue(own_server)
    queue.submit_many([run() for _ in range(1000)])
    with own_server.client() as client:
        before = client.info("memory")["used_memory"]
        queue.submit_many([run(envelope=b"x" * 222, fingerprint="abcdefghijkl") for _ in range(20_000)])
        each = (client.info("memory")["used_memory"] - before) / 20_000
        lists = [key for key in client.scan_iter(f"{queue.prefix}i:*") if client.type(key) == b"list"]
        entry = sum(client.memory_usage(key, samples=0) or 0 for key in lists) / 21_000
    print(f"bytes of a queued run: {each - entry:.0f}, of its entry: {entry:.0f}")
    assert 22 < entry <= 28
    assert each - entry <= 480


def test_the_rows_are_told_apart() -> None:
    assert len({spec.name.partition(":")[:2] for spec in KEYS}) == len(KEYS)
    assert spec_of("nonsense") is None


@pytest.mark.parametrize("namespace", ["", "a{b}", "a:b", "-a", "a" * 64])
def test_a_namespace_that_would_break_the_keys_is_refused(namespace: str) -> None:
    with pytest.raises(ConfigurationError, match="KAPSTAN_NAMESPACE"):
        prefix_of(namespace)
