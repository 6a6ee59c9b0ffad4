"""The index of flow runs: a lease that a higher attempt takes over, summaries, and who is told of them."""

from __future__ import annotations

import queue as standard_queue
import threading
import time

from tests.contract.queue.makers import CODEC
from tests.servers.redis import RedisServer

from kapstan.ids import new_id
from kapstan.queue.flow_runs import RedisFlowRuns
from kapstan.queue.redis import RedisQueue


class TestLease:
    def test_one_holder_an_attempt(self, queue: RedisQueue) -> None:
        runs, run_id = RedisFlowRuns(queue, CODEC), new_id()
        lease = runs.lease(run_id, 1, "first")
        assert lease is not None
        assert runs.lease(run_id, 1, "second") is None
        assert lease.renew()

    def test_a_higher_attempt_takes_it_at_once(self, queue: RedisQueue) -> None:
        runs, run_id = RedisFlowRuns(queue, CODEC), new_id()
        old = runs.lease(run_id, 1, "old")
        new = runs.lease(run_id, 2, "new")
        assert new is not None
        assert not old.renew()
        old.release()
        assert new.renew()

    def test_a_lower_attempt_never_gets_it_back(self, queue: RedisQueue) -> None:
        runs, run_id = RedisFlowRuns(queue, CODEC), new_id()
        runs.lease(run_id, 2, "new").release()
        assert runs.lease(run_id, 1, "old") is None

    def test_a_released_lease_is_free_and_not_renewed(self, queue: RedisQueue) -> None:
        runs, run_id = RedisFlowRuns(queue, CODEC), new_id()
        lease = runs.lease(run_id, 1, "first")
        lease.release()
        assert not lease.renew()
        assert runs.lease(run_id, 1, "second") is not None

    def test_a_lease_that_ran_out_may_be_taken_by_another_process(self, open_queue, shared_server: RedisServer) -> None:
        runs, run_id = RedisFlowRuns(open_queue(shared_server, lease_seconds=0.05), CODEC), new_id()
        old = runs.lease(run_id, 1, "old")
        deadline = time.monotonic() + 10.0
        while (new := runs.lease(run_id, 1, "new")) is None:
            assert time.monotonic() < deadline
        assert not old.renew()
        assert new.renew()


def test_a_summary_is_read_back_and_listed_newest_first(queue: RedisQueue) -> None:
    runs, ids = RedisFlowRuns(queue, CODEC), [new_id() for _ in range(3)]
    for index, run_id in enumerate(ids):
        runs.save(run_id, {"state": "RUNNING", "attempt": index, "name": "nimble-falcon"})
    runs.save(ids[0], {"state": "COMPLETED", "attempt": 0})
    assert runs.load(ids[0]) == {"state": "COMPLETED", "attempt": 0, "run_id": ids[0]}
    assert runs.load(new_id()) is None
    assert {summary["run_id"] for summary in runs.recent()} == set(ids)
    assert len(runs.recent(2)) == 2
    assert runs.recent(0) == []


def test_a_watcher_is_told_within_a_tenth_of_a_second(queue: RedisQueue, shared_server: RedisServer) -> None:
    runs = RedisFlowRuns(queue, CODEC)
    heard: standard_queue.Queue[str] = standard_queue.Queue()
    stopping = threading.Event()
    watching = threading.Thread(target=runs.watch, args=(heard.put, stopping.is_set))
    watching.start()
    with shared_server.client() as client:
        while not client.pubsub_numsub(f"{queue.prefix}runs")[0][1]:
            time.sleep(0.002)
    run_id = new_id()
    runs.save(run_id, {"state": "COMPLETED"})
    saved = time.monotonic()
    assert heard.get(timeout=10.0) == run_id
    print(f"heard after {(time.monotonic() - saved) * 1000:.1f} ms")
    stopping.set()
    watching.join()


def test_a_watcher_outlives_a_restart(open_queue, own_server: RedisServer) -> None:
    queue = open_queue(own_server)
    runs = RedisFlowRuns(queue, CODEC)
    heard: standard_queue.Queue[str] = standard_queue.Queue()
    stopping = threading.Event()
    watching = threading.Thread(target=runs.watch, args=(heard.put, stopping.is_set))
    watching.start()
    own_server.kill()
    own_server.start()
    with own_server.client() as client:
        while not client.pubsub_numsub(f"{queue.prefix}runs")[0][1]:
            time.sleep(0.002)
    run_id = new_id()
    runs.save(run_id, {"state": "COMPLETED"})
    assert heard.get(timeout=10.0) == run_id
    stopping.set()
    watching.join()
