"""What another program may write to the keys of a namespace, and a namespace in which each of them is used."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import redis
from tests.contract.queue.makers import CODEC, Worker, done, run, worker

from kapstan.ids import RunId
from kapstan.ports import Wait
from kapstan.queue import scripts, synced
from kapstan.queue.flow_runs import RedisFlowRuns
from kapstan.queue.locks import RedisTable
from kapstan.queue.redis import RedisQueue
from kapstan.run_limits import Limits, RateLimit

FLOW_RUN = "3" + "0" * 21
LOCKER, OTHER_LOCKER = "C" * 22, "D" * 22
IDLE_TASK, LIMITED, KEPT_TASK = "shop.tasks:idle", "shop.tasks:limited", "shop.tasks:kept"
GROUPED = "shop.tasks:grouped"
TYPES = ("string", "list", "hash", "set", "zset", "stream")
PIECES = (
    b"", b"\xff\xfe\x00\x80", b"junk", b"9" * 40, b"1q", b"A" * 300_000, b"-1", b"nan", b"1e999", b'{"a":', b"[]",
    b"null", b"\0" * 60, b"\xff" * 22, b"a" * 22,
)  # fmt: skip
FIELDS = (b"", b"\xff\xfe", b"\xff" * 22, b"a" * 22, b"r:\xff", b"zz", b"c:", b"#x", b"^0", b"~")
Change = tuple[str, Callable[[], object]]


def table(queue: RedisQueue, client: str) -> RedisTable:
    """Locks of a client, without the process that keeps them alive."""
    table = RedisTable(queue.settings, str)
    table._client = client
    table._call(scripts.lock_renew.pack(queue.prefix, client, "about", 0))
    return table


def fill(queue: RedisQueue, watcher: RedisQueue) -> dict[str, RunId]:
    """Use every key of the table; runs by what became of them. Its sessions live on, as those of dead processes do."""
    runs: dict[str, RunId] = {}

    def submitted(name: str, delay: float = 0.0, priority: int = 0) -> None:
        submission = run(delay=delay, priority=priority)
        runs[name] = submission.run_id
        queue.submit(submission)

    ours, idle = worker(queue, lanes=2, name="host-1-abc"), worker(queue, (IDLE_TASK,), name="host-2-abc")
    queue.pause("shop.tasks:other")
    for name, state, envelope in (
        ("completed", "completed", b"r"),
        ("failed", "failed", b"r"),
        ("parked", "parked", b"K" * 52),
    ):
        submitted(name)
        (claim,) = ours.lane.step([], 1).claims
        ours.lane.step([done(claim, envelope, state)], 0)
    for name, delay in (("held", 0.0), ("delayed", 3600.0), ("due", 0.001)):
        submitted(name, delay)
        if name == "held":
            assert ours.lane.step([], 1).claims
    for number in range(3):
        submitted(f"ready{number}")
    submitted("urgent", priority=3)
    limits = {LIMITED: Limits(1, RateLimit(1, 3600), 1), GROUPED: Limits(group_concurrency=1)}
    session = queue.open_session("shop", (LIMITED, GROUPED), 1, session="host-4-abc", limits=limits)
    lane = queue.open_lane(session.name, 0, (LIMITED, GROUPED))
    for name, task in (("limited", LIMITED), ("over it", LIMITED), ("grouped", GROUPED), ("over its group's", GROUPED)):
        runs[name] = run(task, group="g").run_id
        queue.submit(run(task, run_id=runs[name], group="g"))
        lane.step([], 1)
    limited = Worker(session, [lane])
    idle.lane.step([], 1)
    ended, open_run = run(KEPT_TASK), run(KEPT_TASK, expires=3600.0)
    queue.submit_many([ended, open_run])
    queue.submit_many([run(KEPT_TASK, after=(ended.run_id, open_run.run_id))])
    queue.replace("key", lambda run_id: run(KEPT_TASK, run_id=run_id))
    queue.command(synced.mark(queue.prefix))
    queue.cancel(ended.run_id)
    watcher.wait([runs["held"], runs["ready0"]], 0.2)
    queue.cancel(runs["held"])
    queue.note_end("host-0-abc", {"seen": "it ended"})
    queue.drain_session("drained-pod")
    flows = RedisFlowRuns(queue, CODEC)
    flows.save(FLOW_RUN, {"state": "Running"})
    assert flows.lease(FLOW_RUN, 1, "holder")
    flows.ask_cancel(FLOW_RUN, 3)
    locks = table(queue, LOCKER)
    for number, look in (("1", False), ("2", False), ("3", True)):
        locks.ask(Wait("key", f"holder{number}", LOCKER, number, None, look), True, [])
    locks.close()
    for each in (ours, idle, limited):
        each.die()
        for part in (*each.lanes, each.session):
            part._wake.close()  # type: ignore[attr-defined]
    return runs


def as_type(client: redis.Redis, key: bytes, kind: str) -> None:
    client.delete(key)
    fields: Any = {"junk": "junk"}
    match kind:
        case "string":
            client.set(key, "junk")
        case "list":
            client.rpush(key, "junk")
        case "hash":
            client.hset(key, mapping=fields)
        case "set":
            client.sadd(key, "junk")
        case "zset":
            client.zadd(key, {"junk": 1.0})
        case _:
            client.xadd(key, fields)


def changes(client: redis.Redis, key: bytes) -> Iterator[Change]:
    """Each way in which another program may have written to ``key``, and what does it."""
    kind = client.type(key).decode()
    for other in TYPES:
        if other != kind:
            yield f"a {other}", partial(as_type, client, key, other)
    yield from {"string": _strings, "list": _lists, "set": _sets, "zset": _zsets, "hash": _hashes}[kind](client, key)


def _strings(client: redis.Redis, key: bytes) -> Iterator[Change]:
    good: bytes = client.get(key)  # pyright: ignore[reportAssignmentType]
    made = [*PIECES, *(good[:end] for end in (1, 2, 3, 10, 20, 26, 31, 33, 40, 41, 45, 50))]
    made += [good[:at] + b"\xff" + good[at + 1 :] for at in (0, 1, 2, 9, 16, 25, 26, 28, 30, 31, 35, 40, 50)]
    made += [good.replace(b"\0", b"x", 1), good.replace(b"\0", b"x")]
    for text in made:
        yield f"{text[:60]!r}", partial(client.set, key, text)


def _lists(client: redis.Redis, key: bytes) -> Iterator[Change]:
    good: bytes = client.lindex(key, 0)  # pyright: ignore[reportAssignmentType]
    for text in (*PIECES, good[:5], good + b"x", good + good[3:]):
        yield f"first {text[:60]!r}", partial(client.lpush, key, text)
        yield f"last {text[:60]!r}", partial(client.rpush, key, text)


def _sets(client: redis.Redis, key: bytes) -> Iterator[Change]:
    for text in PIECES:
        yield f"with {text[:60]!r}", partial(client.sadd, key, text)
    yield "only junk", lambda: (client.delete(key), client.sadd(key, b"\xff\xfe"))


def _zsets(client: redis.Redis, key: bytes) -> Iterator[Change]:
    members: Any = client.zrange(key, 0, -1)
    for score in (0.0, float("-inf"), float("inf"), 1e300, -5.5):
        yield f"every score {score}", partial(client.zadd, key, dict.fromkeys(members, score))
        for text in PIECES:
            yield f"with {text[:60]!r} {score}", partial(client.zadd, key, {text: score})


def _hashes(client: redis.Redis, key: bytes) -> Iterator[Change]:
    good: Any = client.hgetall(key)
    for field, value in good.items():
        yield f"without {field!r}", partial(client.hdel, key, field)
        for text in (*PIECES, value[:5]):
            yield f"{field!r}: {text[:60]!r}", partial(client.hset, key, field, text)
    for field in FIELDS:
        for text in (b"", b"\xff", b"junk", b"9" * 25):
            yield f"new {field!r}: {text[:60]!r}", partial(client.hset, key, field, text)


def some(found: list[Change], number: int, seed: int) -> list[Change]:
    """So many wrong types, and so many of the others."""
    types = [change for change in found if change[0].startswith("a ")]
    others = [change for change in found if not change[0].startswith("a ")]
    chosen = random.Random(seed)
    return [change for each in (types, others) for change in chosen.sample(each, min(number, len(each)))]
