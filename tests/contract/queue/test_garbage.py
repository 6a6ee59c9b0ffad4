"""Another program, a bug or another release writes to Redis: every reader goes on or says what is wrong, by name.

Sampled here; ``KAPSTAN_TEST_GARBAGE=all`` tries every change of every key (some 1,800, two minutes).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest
from tests.contract.queue import garbage
from tests.contract.queue.garbage import FLOW_RUN, GROUPED, IDLE_TASK, LIMITED, LOCKER, OTHER_LOCKER
from tests.contract.queue.makers import CODEC, TASK, Register, done, run
from tests.servers.redis import RedisServer

from kapstan.errors import KapstanError
from kapstan.ids import RunId
from kapstan.ports import BackgroundFilter, Wait
from kapstan.queue.background_runs import RedisBackgroundRuns
from kapstan.queue.flow_runs import RedisFlowRuns
from kapstan.queue.keys import KEYS
from kapstan.queue.redis import RedisQueue
from kapstan.run_limits import Limits, RateLimit
from kapstan.settings import Settings

EACH = 10_000 if os.environ.get("KAPSTAN_TEST_GARBAGE") == "all" else 2
NAMED = ("WRONGTYPE", "UNREADABLE")
"""What the server's word may be when a key is no key of ours: never an error in the middle of a script."""
Reader = tuple[str, Callable[[], object]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


def opened(server: RedisServer) -> RedisQueue:
    return RedisQueue(Settings(redis_url=server.url, namespace="team", redis_retry_seconds=0.3), Register())


def work(queue: RedisQueue, most: int = 12) -> list[RunId]:
    """A worker of one lane claims and ends what it gets, and renews; the runs."""
    session = queue.open_session("shop", (TASK,), 1, session="host-3-abc")
    claimed: list[RunId] = []
    try:
        lane = queue.open_lane(session.name, 0, (TASK,))
        try:
            for _ in range(most):
                claims = lane.step([], 1).claims or lane.wait(0.0)
                claimed += [claim.run_id for claim in claims]
                lane.step([done(claim) for claim in claims], 0)
            session.renew({})
            session.claims()
        finally:
            lane.close()
    finally:
        session.close()
    return claimed


def readers(queue: RedisQueue, runs: dict[str, RunId]) -> Iterator[Reader]:
    """Everything that reads or changes what stands in Redis."""
    listed, flows, ids = RedisBackgroundRuns(queue), RedisFlowRuns(queue, CODEC), list(runs.values())

    def supervise() -> None:
        session = queue.open_session("shop", (TASK,), 2, session="host-1-abc")
        try:
            session.lane_died(0, runs["held"], b"envelope", time.monotonic() + 100)
        finally:
            session._wire.close()
            session._wake.close()

    def limit() -> None:
        """A worker with other limits, and what it gets then."""
        limits = {LIMITED: Limits(3, group_rate=RateLimit(5, 1)), GROUPED: Limits(group_concurrency=2)}
        session = queue.open_session("shop", tuple(limits), 1, session="host-5-abc", limits=limits)
        try:
            lane = queue.open_lane(session.name, 0, tuple(limits))
            try:
                for _ in range(3):
                    claims = lane.step([], 1).claims or lane.wait(0.0)
                    lane.step([done(claim) for claim in claims], 0)
                session.renew({})
            finally:
                lane.close()
        finally:
            session.close()

    def lock() -> None:
        locks = garbage.table(queue, OTHER_LOCKER)
        try:
            locks.holder("key")
            locks.ask(Wait("key", "me", OTHER_LOCKER, "1"), True, [])
            locks.release("key", "holder1", None)
            locks.end_client(LOCKER)
            locks.end_client(OTHER_LOCKER)
        finally:
            locks.close()

    yield "records", lambda: queue.records(ids)
    yield "wait", lambda: queue.wait(ids, 0.0)
    yield "depth", lambda: queue.depth([TASK, IDLE_TASK, LIMITED, GROUPED])
    yield "sessions", queue.sessions
    yield "paused", queue.paused
    yield "seen_end", lambda: queue.seen_end("host-0-abc")
    for state in ("running", "failed", "ready"):
        yield f"page of {state}", lambda state=state: listed.page(BackgroundFilter(frozenset([state])), 50)
    yield "page", lambda: listed.page(BackgroundFilter(), 50)
    yield "runs", queue.runs
    yield "counts", listed.counts
    yield "beginning_with", lambda: listed.beginning_with("01")
    yield "look", lambda: [listed.look(run_id) for run_id in ids]
    yield "flow run", lambda: flows.load(FLOW_RUN)
    yield "newest flow runs", lambda: flows.newest(10)
    yield "holders", lambda: flows.holders([FLOW_RUN])
    yield "flow lease", lambda: flows.lease(FLOW_RUN, 1, "other")
    yield "save", lambda: flows.save(FLOW_RUN, {"state": "Completed"})
    yield "ask_cancel", lambda: flows.ask_cancel(FLOW_RUN, 3)
    yield "submit to an idle lane", lambda: queue.submit(run(IDLE_TASK))
    yield "submit", lambda: queue.submit(run())
    yield "submit again", lambda: [queue.submit(run(run_id=run_id)) for run_id in ids]
    yield "submit_many", lambda: queue.submit_many([run() for _ in range(3)])
    yield "submit_many again", lambda: queue.submit_many([run(run_id=run_id) for run_id in ids])
    yield "supervise", supervise
    yield "pause", lambda: (queue.pause(TASK), queue.resume(TASK))
    yield "rerun", lambda: [listed.rerun(run_id) for run_id in ids]
    yield "work", lambda: work(queue)
    yield "cancel", lambda: [queue.cancel(run_id) for run_id in ids]
    yield "delete", lambda: [listed.delete(run_id) for run_id in ids]
    yield "drain", lambda: queue.drain_session("host-1-abc")
    yield "expire", lambda: queue.expire_session("host-1-abc")
    yield "work on", lambda: work(queue)
    yield "limit", limit
    yield "lock", lock


READ = [spec.name.partition(":")[0] for spec in KEYS if not spec.name.startswith("bad:") and spec.name != "aof"]
"""`aof` is only written."""


@pytest.mark.parametrize("name", READ)
def test_every_reader_of_a_key_survives_what_others_wrote_there(server: RedisServer, name: str) -> None:
    client, queue, watcher = server.client(), opened(server), opened(server)
    client.flushall()
    runs = garbage.fill(queue, watcher)
    whole = {key: client.dump(key) for key in client.keys("*")}
    keys = [key for key in whole if key.decode().split(":", 2)[1] == name]
    if name == "t":
        keys = [
            f"{queue.prefix}t:{runs[which]}".encode() for which in ("ready1", "held", "delayed", "completed", "parked")
        ]
    wrong = [] if keys else [f"no run has used {name}"]
    try:
        for key in keys:
            _restored(client, whole)
            for number, (what, change) in enumerate(garbage.some(list(garbage.changes(client, key)), EACH, len(name))):
                _restored(client, whole)
                change()
                each = opened(server)
                for reader, read in readers(each, runs):
                    try:
                        read()
                    except KapstanError as error:
                        if "user_script" in str(error) and not any(word in str(error) for word in NAMED):
                            wrong.append(f"{key!r} {what}: {reader}: {error}")
                    except Exception as error:  # noqa: BLE001  (that is the point)
                        wrong.append(f"{key!r} {what} ({number}): {reader}: {error!r}")
                each.close()
    finally:
        for part in (queue, watcher, client):
            part.close()
    assert wrong == []


UNHARMED = ("t", "q", "n", "x", "i", "ir", "e", "er", "v", "idle", "fi", "gone", "bad", "lk", "args", "d")
"""Keys of which nothing that is written there costs another run its turn."""


@pytest.mark.parametrize("name", UNHARMED)
def test_no_other_run_is_lost_or_claimed_twice(server: RedisServer, name: str) -> None:
    """And the run whose record was written over is claimed without arguments: its worker says what became of it."""
    client, queue, watcher = server.client(), opened(server), opened(server)
    client.flushall()
    runs = garbage.fill(queue, watcher)
    client.set(f"{queue.prefix}bad:{runs['ready1']}", "an earlier one")
    whole = {key: client.dump(key) for key in client.keys("*")}
    waiting = sorted(runs[which] for which in ("ready0", "ready1", "ready2", "due", "urgent"))
    key = next(key for key in whole if key.decode().split(":", 2)[1] == name)
    if name == "t":
        key = f"{queue.prefix}t:{runs['ready1']}".encode()
    wrong: list[str] = []
    try:
        for what, change in garbage.some(list(garbage.changes(client, key)), EACH, len(name)):
            if (name in "qd" and what.startswith("a ")) or what.startswith("every score"):
                continue  # the list itself is gone; a delayed run is due
            _restored(client, whole)
            change()
            each, another = opened(server), run()
            try:
                each.submit(another)
                claimed = sorted(work(each, 20))
                states = {record and record.state for record in each.records(claimed)}
                if claimed != sorted([*waiting, another.run_id]) or states != {"completed"}:
                    wrong.append(f"{key!r} {what}: {claimed} of {waiting}, {states}")
            except KapstanError as error:
                wrong.append(f"{key!r} {what}: {error}")
            finally:
                each.close()
    finally:
        for part in (queue, watcher, client):
            part.close()
    assert wrong == []


def _restored(client, whole: dict[bytes, bytes]) -> None:
    pipeline = client.pipeline()
    pipeline.flushall()
    for key, value in whole.items():
        pipeline.restore(key, 0, value)
    pipeline.execute()
