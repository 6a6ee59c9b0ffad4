"""Random histories of limits, groups, priorities and pauses together: no slot leaks, no limit is broken, nothing that
may begin waits for an idle lane, and in the end all is done and nothing is left."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.contract.queue.makers import Worker, done, run
from tests.contract.queue.test_limits import clock, left_over
from tests.servers.redis import RedisServer

from kapstan.ids import RunId
from kapstan.ports import Claim, Outcome, RunRecord
from kapstan.queue.background_runs import RedisBackgroundRuns
from kapstan.queue.record import route_of
from kapstan.queue.redis import RedisQueue
from kapstan.queue.wire import pack
from kapstan.run_limits import Limits, RateLimit

TASKS, QUEUES = ("a:a", "b:b"), ("default", "slow")
ROUTES = [(task, queue) for task in TASKS for queue in QUEUES]
SLOTS = (None, 1, 2, 4)
RATES = (None, None, None, RateLimit(2, 60), RateLimit(3, 600))
Held = tuple[Worker, int, Claim]
_names = itertools.count(1)


class History:
    """What several workers and people do to one queue; ``server``: what is killed now and then."""

    def __init__(self, queue: RedisQueue, draw: random.Random, server: RedisServer | None) -> None:
        self.queue, self.draw, self.server = queue, draw, server
        self.workers: list[Worker] = []
        self.served: dict[str, list[tuple[str, str]]] = {}
        self.held: list[Held] = []
        self.runs: list[RunId] = []
        self.slots_before: dict[str, int] = {}
        self.claims_seen: set[tuple[RunId, bytes]] = set()
        self.begun: dict[str, list[float]] = {}  # by limit: moments since the numbers were said last
        self.limits: dict[str, Limits] = {}
        self.seconds = 0.0
        self.copy: Path | None = None
        self.hire()

    # ------------------------------------------------------------------ what may happen

    def submit(self) -> None:
        draw = self.draw
        fields = {"group": draw.choice(["", "x", "y", "z"]), "priority": draw.choice([0, 0, 3, -3])}
        fields |= {"queue": draw.choice(QUEUES), "delay": draw.choice([0.0, 0.0, 0.0, 60.0])}
        fields |= {"expires": draw.choice([None, None, 600.0]), "after": tuple(self.runs[-1:] * draw.choice([0, 0, 1]))}
        runs = [run(draw.choice(TASKS), **fields) for _ in range(draw.choice([1, 1, 3]))]
        if len(runs) == 1:
            self.queue.submit(runs[0])
        else:
            self.queue.submit_many(runs)
        self.runs += [each.run_id for each in runs]

    def replace(self) -> None:
        draw, task = self.draw, self.draw.choice(TASKS)
        fields = {"group": draw.choice(["", "x"]), "priority": draw.choice([0, 3]), "delay": draw.choice([0.0, 60.0])}
        found, _ = self.queue.replace(f"key-{task[0]}", lambda run_id: run(task, run_id=run_id, **fields))
        self.runs = [*(each for each in self.runs if each != found), found]

    def hire(self) -> None:
        """A worker with numbers of its own; the oldest goes in order."""
        if len(self.workers) >= 3:
            gone = self.workers.pop(0)
            self.forget(gone)
            gone.close()
            self.check()
        name, draw = f"history-{next(_names)}", self.draw
        served = ROUTES if draw.random() < 0.7 else draw.sample(ROUTES, 2)
        for task in {task for task, _ in served}:
            if task not in self.limits or draw.random() < 0.3:
                self.limits[task] = Limits(*(draw.choice(numbers) for numbers in (SLOTS, RATES, SLOTS, RATES)))
                self.begun = {limit: begun for limit, begun in self.begun.items() if limit.partition("||")[0] != task}
        session = self.queue.open_session("shop", served, 2, session=name, limits=self.limits)
        self.served[name] = served
        self.workers.append(Worker(session, [self.queue.open_lane(name, lane, served) for lane in range(2)]))

    def kill(self) -> None:
        """A worker is gone without a word, and its lease ends some time later."""
        victim = self.draw.choice(self.workers)
        self.workers.remove(victim)
        self.forget(victim)
        victim.die()
        self.check()
        self.queue.expire_session(victim.session.name)
        for lane in victim.lanes:
            lane.close()
        victim.session._wake.close()  # type: ignore[attr-defined]
        if not self.workers:
            self.hire()

    def lane_died(self) -> None:
        """A child is gone, its supervisor sees it, and another takes its place."""
        worker, lane = self.draw.choice(self.workers), self.draw.randrange(2)
        held = [claim.run_id for holder, at, claim in self.held if holder is worker and at == lane]
        self.held = [each for each in self.held if each[0] is not worker or each[1] != lane]
        worker.lanes[lane].close()
        worker.session.lane_died(lane, self.draw.choice([*held, None]), b"died")
        name = worker.session.name
        worker.lanes[lane] = self.queue.open_lane(name, lane, self.served[name])

    def forget(self, worker: Worker) -> None:
        self.held = [each for each in self.held if each[0] is not worker]

    def step(self, worker: Worker, lane: int, outcomes: list[Outcome], want: int) -> None:
        self.held += [(worker, lane, claim) for claim in worker.lanes[lane].step(outcomes, want).claims]

    def claim(self) -> None:
        self.step(self.draw.choice(self.workers), self.draw.randrange(2), [], self.draw.choice([1, 1, 3]))

    def end(self) -> None:
        if self.held:
            worker, lane, claim = self.held.pop(self.draw.randrange(len(self.held)))
            state = self.draw.choice(["completed", "completed", "failed", "parked"])
            outcome = done(claim, b"K" * 52 if state == "parked" else b"result", state)
            self.step(worker, lane, [outcome], self.draw.choice([0, 1]))

    def retry(self) -> None:
        if self.held:
            worker, lane, claim = self.held.pop(self.draw.randrange(len(self.held)))
            worker.lanes[lane].retry(claim.run_id, claim.token, self.draw.choice([0.0, 60.0]))

    def give_back(self) -> None:
        worker, lane = self.draw.choice(self.workers), self.draw.randrange(2)
        back = worker.lanes[lane].give_back([])
        self.held = [each for each in self.held if each[2].run_id not in back]

    def pause(self) -> None:
        change: Callable[..., bool] = self.draw.choice([self.queue.pause, self.queue.resume, self.queue.resume])
        change(self.draw.choice([*TASKS, ""]), self.draw.choice(QUEUES))

    def cancel(self) -> None:
        if self.runs:
            self.queue.cancel(self.draw.choice(self.runs))

    def rerun(self) -> None:
        if self.runs:
            RedisBackgroundRuns(self.queue).rerun(self.draw.choice(self.runs))

    def pass_time(self) -> None:
        self.seconds += self.draw.choice([2.0, 12.0, 40.0, 250.0])
        clock(self.queue, round(self.seconds * 1000))

    def restart(self) -> None:
        """Redis is killed, and comes back as it was, or as it was some time before."""
        if self.server is None or self.draw.random() < 0.5:
            return
        if self.copy is None:
            self.copy = self.server.folder / f"copy-{next(_names)}"
            self.server.save_copy(self.copy)
            return
        self.server.kill()
        lost = self.draw.random() < 0.5
        if lost:
            self.server.put_back(self.copy)
        self.copy = None
        self.server.start()
        if lost:
            clock(self.queue, round(self.seconds * 1000))
            for name in {info.session for info in self.queue.sessions()} - {each.session.name for each in self.workers}:
                self.queue.expire_session(name)  # one that had ended before; else its lease ends it
            self.begun.clear()
            prefix = self.queue.prefix
            self.slots_before = {each: self.read("SCARD", f"{prefix}cs:{each}") for each in self.slots_of_all()}

    def slots_of_all(self) -> list[str]:
        keys = [key.decode() for key in self.read("KEYS", f"{self.queue.prefix}cs:*")]
        return [key[len(self.queue.prefix) + 3 :] for key in keys]

    # ------------------------------------------------------------------ what holds

    def check(self) -> None:
        for worker in self.workers:
            worker.session.renew({claim.run_id: claim.token for holder, _, claim in self.held if holder is worker})
        self.check_slots()
        self.check_rates()
        self.check_nothing_is_stuck()

    def read(self, *command: object) -> Any:
        return self.queue.command(pack(*command))  # type: ignore[arg-type]

    def check_slots(self) -> None:
        """The sets of holders are what the claims say, and none has grown above its limit."""
        prefix = self.queue.prefix
        claimed: dict[str, set[RunId]] = {}
        for name in self.read("ZRANGE", f"{prefix}s", 0, -1):
            fields = self.read("HGETALL", f"{prefix}w:{name.decode()}")
            for field, value in fields.items():
                if len(field) == 22:
                    for limit in value.decode().split("\x1e")[1:]:
                        claimed.setdefault(limit, set()).add(field.decode())
        holders = {
            limit: {each.decode() for each in self.read("SMEMBERS", f"{prefix}cs:{limit}")}
            for limit in self.slots_of_all()
        }
        assert holders == claimed
        for limit, held in holders.items():
            task, bars, _ = limit.partition("||")
            most = self.read("HGET", f"{prefix}lim", f"{'g' if bars else 'c'}:{task}")
            if most is not None:
                assert len(held) <= max(int(most), self.slots_before.get(limit, 0)), f"{limit}: {most}"
        self.slots_before = {limit: len(held) for limit, held in holders.items()}

    def check_rates(self) -> None:
        """No period since the numbers are those of now sees more than they say; what is observed is somewhat late."""
        seconds, micros = self.read("TIME")
        now = int(seconds) + int(micros) / 1e6 + self.seconds
        claims = {
            (field.decode(), value[:14])
            for name in self.read("ZRANGE", f"{self.queue.prefix}s", 0, -1)
            for field, value in self.read("HGETALL", f"{self.queue.prefix}w:{name.decode()}").items()
            if len(field) == 22
        }
        new = claims - self.claims_seen
        self.claims_seen |= new
        for record in self.queue.records([run_id for run_id, _ in new]):
            assert record is not None
            for limit in (record.task, *([f"{record.task}||{record.group}"] if record.group else [])):
                self.begun.setdefault(limit, []).append(now)
        for limit, moments in self.begun.items():
            task, bars, _ = limit.partition("||")
            rate = self.limits[task].group_rate if bars else self.limits[task].rate
            if rate is not None:
                within = [moment for moment in moments if moment > now - rate.seconds + 1]
                assert len(within) <= rate.runs, f"{limit}: {rate}"

    def check_nothing_is_stuck(self) -> None:
        """No lane is idle while a run of one of its routes may begin."""
        prefix, paused = self.queue.prefix, self.queue.paused()
        records = [record for record in self.queue.records(self.runs) if record is not None]
        waiting = [each for each in records if each.state == "ready" and not self.is_paused(each, paused)]
        places = {(each.task, each.queue, each.group) for each in waiting}
        may_begin = {route_of(task, name) for task, name, group in places if self.has_room(task, group)}
        for worker in self.workers:
            fields = self.read("HKEYS", f"{prefix}w:{worker.session.name}")
            if any(field.startswith(b"#") for field in fields):
                assert not may_begin & {*worker.session._routes}  # type: ignore[attr-defined]

    def is_paused(self, record: RunRecord, paused: list[tuple[str, str]]) -> bool:
        return (record.task, record.queue) in paused or ("", record.queue) in paused

    def has_room(self, task: str, group: str) -> bool:
        names = [(task, "cr"), *([(f"{task}||{group}", "gh")] if group else [])]
        prefix = self.queue.prefix
        for limit, (slots, rate) in names:
            most, pace = self.read("HMGET", f"{prefix}lim", f"{slots}:{task}", f"{rate}:{task}")
            if most is not None and self.read("SCARD", f"{prefix}cs:{limit}") >= int(most):
                return False
            due = self.read("GET", f"{prefix}rl:{limit}")
            if pace is not None and due is not None:
                seconds, micros = self.read("TIME")
                now = int(seconds) * 1000 + int(micros) / 1000 + self.seconds * 1000
                if float(due) - float(pace.split()[1]) > now - 1000:  # a second: it may have come only just now
                    return False
        return True

    def finish(self) -> None:
        """Let all come to its end, with limits of which one is left."""
        for task, queue in itertools.product((*TASKS, ""), QUEUES):
            self.queue.resume(task, queue)
        self.limits = {"a:a": Limits(1, None, 1), "b:b": Limits()}
        session = self.queue.open_session("shop", ROUTES, 2, session="last", limits=self.limits)
        self.workers.append(Worker(session, [self.queue.open_lane("last", lane, ROUTES) for lane in range(2)]))
        for _ in range(40 + len(self.runs)):
            self.pass_time()
            for worker, lane in itertools.product(self.workers, range(2)):
                self.step(worker, lane, [], 3)
            for record in self.queue.records(self.runs):
                if record is not None and record.state == "parked":
                    RedisBackgroundRuns(self.queue).rerun(record.run_id)
            held, self.held = self.held, []
            for worker, lane, claim in held:
                self.step(worker, lane, [done(claim)], 0)
            self.check()
        states = {record.state for record in self.queue.records(self.runs) if record is not None}
        assert states <= {"completed", "failed", "cancelled", "crashed"}
        assert left_over(self.queue) == []

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


EVENTS = (
    *("submit", "claim", "end", "pass_time") * 5,
    *("hire", "kill", "lane_died", "replace", "retry", "give_back"),
    *("pause", "cancel", "rerun", "restart", "restart"),
)


def played(queue: RedisQueue, seed: int, events: int, server: RedisServer | None = None) -> None:
    history = History(queue, random.Random(seed), server)
    try:
        for _ in range(events):
            getattr(history, history.draw.choice(EVENTS))()
            history.check()
        history.finish()
    finally:
        history.close()


@pytest.mark.parametrize("seed", range(5))
def test_limits_groups_priorities_and_pauses_hold_together(queue: RedisQueue, seed: int) -> None:
    played(queue, seed, 150)


@pytest.mark.parametrize("seed", range(100, 102))
def test_they_hold_over_restarts_of_redis(open_queue, own_server: RedisServer, seed: int) -> None:
    played(open_queue(own_server), seed, 120, own_server)
