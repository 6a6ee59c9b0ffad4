"""Nothing waits while somebody could do it: any order of what clients, lanes and supervisors do, on a real Redis.

After every step, once what was published is read, no lane waits that serves a task of which a run is ready. At the end
the workers do what there is, and every run has ended once. The lanes are real; the test says when each of them moves.
``KAPSTAN_TEST_EXAMPLES`` makes it longer.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.contract.queue.makers import Register, Worker, done, run, worker
from tests.servers.redis import RedisServer

from kapstan.ids import RunId
from kapstan.ports import Claim, Lane
from kapstan.queue.redis import RedisQueue
from kapstan.queue.wire import pack
from kapstan.settings import Settings

TASKS = ("m:a", "m:b", "m:c")
SERVED = (TASKS[:1], TASKS[:2], TASKS[1:], TASKS)
TERMINAL = ("completed", "failed", "crashed", "cancelled")
_namespaces = itertools.count(1)


@dataclass(eq=False)
class Played:
    """One lane: ``held`` is what its executor believes to hold; it waits when it has asked with empty hands."""

    worker: Worker
    number: int
    tasks: tuple[str, ...]
    held: list[Claim] = field(default_factory=list)
    waits: bool = False

    @property
    def lane(self) -> Lane:
        return self.worker.lanes[self.number]


class Quiescence(RuleBasedStateMachine):
    """Workers of two lanes that serve different tasks; ``server`` is set by the test."""

    server: RedisServer

    @initialize()
    def begin(self) -> None:
        given = Settings(redis_url=self.server.url, namespace=f"quiet{os.getpid()}-{next(_namespaces)}")
        self.queue = RedisQueue(given, Register())
        self.serial = itertools.count()
        self.lanes: list[Played] = []
        self.submitted: list[RunId] = []
        self.commits = Counter[RunId]()
        for tasks in SERVED[:2]:
            self.hire(tasks)

    def hire(self, tasks: tuple[str, ...]) -> None:
        made = worker(self.queue, tasks, lanes=2, name=f"worker-{next(self.serial)}")
        self.lanes += [Played(made, number, tasks) for number in range(2)]

    def workers(self) -> list[Worker]:
        return list({id(played.worker): played.worker for played in self.lanes}.values())

    # ------------------------------------------------------------------ clients

    @rule(
        task=st.sampled_from(TASKS),
        delay=st.sampled_from([0.0, 0.0, 3600.0]),
        effect=st.sampled_from("pi"),
        priority=st.sampled_from([0, 0, 3, -3]),
        group=st.sampled_from(["", "", "g", "h"]),
    )
    def submit(self, task: str, delay: float, effect: str, priority: int, group: str) -> None:
        submission = run(task, delay=delay, effect=effect, priority=priority, group=group)
        self.queue.submit(submission)
        self.submitted.append(submission.run_id)

    @rule(tasks=st.lists(st.sampled_from(TASKS), min_size=1, max_size=8))
    def submit_many(self, tasks: list[str]) -> None:
        submissions = [run(task) for task in tasks]
        self.queue.submit_many(submissions)
        self.submitted += [submission.run_id for submission in submissions]

    @rule(choice=st.integers(0, 999))
    def cancel(self, choice: int) -> None:
        if self.submitted:
            self.queue.cancel(self.submitted[choice % len(self.submitted)])

    @rule(choice=st.integers(0, 999))
    def time_comes(self, choice: int) -> None:
        """A delayed run is due; a supervisor notices at its beat."""
        delayed = self.queue.command(pack("ZRANGE", f"{self.queue.prefix}d", 0, -1))
        if delayed:
            self.queue.command(pack("ZADD", f"{self.queue.prefix}d", 1, delayed[choice % len(delayed)]))
            self.workers()[choice % len(self.workers())].session.renew()

    # ------------------------------------------------------------------ lanes

    def one_that_holds(self, which: int) -> Played:
        lanes = [played for played in self.lanes if played.held] or self.lanes
        return lanes[which % len(lanes)]

    @rule(which=st.integers(0, 99), want=st.integers(1, 4))
    def asks(self, which: int, want: int) -> None:
        played = self.lanes[which % len(self.lanes)]
        if not played.waits:
            played.held += played.lane.step([], want).claims

    @rule(which=st.integers(0, 99))
    def waits_for_work(self, which: int) -> None:
        played = self.lanes[which % len(self.lanes)]
        played.waits = not played.held
        self.hear(played)

    @rule(which=st.integers(0, 99), many=st.integers(1, 4), failed=st.booleans())
    def finishes(self, which: int, many: int, failed: bool) -> None:
        self.finish(self.one_that_holds(which), many, "failed" if failed else "completed")

    def finish(self, played: Played, many: int, state: str) -> None:
        ended, played.held = played.held[:many], played.held[many:]
        for claim in ended:  # one by one: it may believe to hold two claims of one run
            if not played.lane.step([done(claim, state=state)], 0).lost:
                self.commits[claim.run_id] += 1

    @rule(which=st.integers(0, 99), keep=st.integers(0, 2))
    def puts_back(self, which: int, keep: int) -> None:
        played = self.one_that_holds(which)
        played.held = played.held[:keep]
        played.lane.give_back([claim.run_id for claim in played.held])

    @rule(which=st.integers(0, 99), delay=st.sampled_from([0.0, 3600.0]))
    def retries(self, which: int, delay: float) -> None:
        played = self.one_that_holds(which)
        if played.held:
            claim = played.held.pop()
            played.lane.retry(claim.run_id, claim.token, delay)

    @rule(which=st.integers(0, 99))
    def loses_an_answer(self, which: int) -> None:
        """What it holds, it does not know of: the queue does. It waits for work."""
        played = self.one_that_holds(which)
        played.held.clear()
        played.waits = True
        self.hear(played)

    def hear(self, played: Played) -> None:
        """What a lane that is blocked does when something comes. Its connection brings the answer to a PING after all
        that was published before."""
        if not played.waits:
            return
        lane: Any = played.lane
        lane._wire.send(pack("PING"))
        lane._wire.read()
        while lane._wire.pushes:
            if lane._read_push(lane._wire.pushes.popleft()):
                lane._status = b""
        played.held += lane.wait(0.0)
        played.waits = not played.held

    # ------------------------------------------------------------------ supervisors

    @rule(which=st.integers(0, 99), keep=st.integers(0, 1))
    def is_recalled(self, which: int, keep: int) -> None:
        """Behind the lane's back: its executor still believes to hold what went."""
        self.recall(self.one_that_holds(which), keep)

    def recall(self, played: Played, keep: int) -> None:
        mine = [claim[1:] for claim in played.worker.session.claims() if claim[0] == played.number]
        played.worker.session.take_back(mine[keep:])

    @rule(which=st.integers(0, 99), how=st.sampled_from(["cancel", "recall", "lease"]))
    def is_emptied_and_settles(self, which: int, how: str) -> None:
        """As ``is_recalled``; then its executor sees it, gives back what it believes to hold, and waits for work."""
        played = self.one_that_holds(which)
        if how == "cancel":
            for claim in played.held:
                self.queue.cancel(claim.run_id)
        if how == "lease":
            self.loses_its_lease(self.lanes.index(played))
        else:
            self.recall(played, 0)
        played.held.clear()
        played.lane.give_back([])
        played.waits = True
        self.hear(played)

    @rule(which=st.integers(0, 99))
    def loses_its_lease(self, which: int) -> None:
        """The session is ended by others and opened anew by its next beat; the lanes hear of neither."""
        played = self.lanes[which % len(self.lanes)]
        self.queue.expire_session(played.worker.session.name)
        played.worker.session.renew()

    @rule(which=st.integers(0, 99), tasks=st.sampled_from(SERVED))
    def dies(self, which: int, tasks: tuple[str, ...]) -> None:
        dead = self.lanes[which % len(self.lanes)].worker
        self.queue.expire_session(dead.session.name)
        self.lanes = [played for played in self.lanes if played.worker is not dead]
        dead.close()
        self.hire(tasks)

    @rule(which=st.integers(0, 99))
    def drains(self, which: int) -> None:
        leaving = self.lanes[which % len(self.lanes)].worker
        leaving.session.drain()
        for played in [played for played in self.lanes if played.worker is leaving]:
            self.finish(played, len(played.held), "completed")
        self.dies(which, self.lanes[which % len(self.lanes)].tasks)

    @rule()
    def beats(self) -> None:
        for each in self.workers():
            each.session.renew()

    # ------------------------------------------------------------------ what holds

    @invariant()
    def no_ready_run_waits_while_a_lane_that_serves_it_waits(self) -> None:
        if not hasattr(self, "queue"):
            return
        for played in self.lanes:
            self.hear(played)
        for played in self.lanes:
            if played.waits and any(self.ready_of(task) for task in played.tasks):
                self.hear(played)  # another lane that asked may have made something due
                ready = [task for task in played.tasks if self.ready_of(task)]
                assert not played.waits or not ready, f"runs of {ready} are ready, and lane {played.number} waits"

    def ready_of(self, task: str) -> list[RunId]:
        lists = self.queue.command(pack("KEYS", f"{self.queue.prefix}q:{task}*"))
        entries = self.queue.commands([pack("LRANGE", each, 0, -1) for each in lists])
        ids = [each.decode() for some in entries for each in some]
        return [record.run_id for record in self.queue.records(ids) if record is not None and record.state == "ready"]

    def teardown(self) -> None:
        if not hasattr(self, "queue"):
            return
        try:
            self.everything_ends_once()
        finally:
            for each in self.workers():
                each.close()
            self.queue.close()

    def everything_ends_once(self) -> None:
        self.hire(TASKS)
        for delayed in self.queue.command(pack("ZRANGE", f"{self.queue.prefix}d", 0, -1)):
            self.queue.command(pack("ZADD", f"{self.queue.prefix}d", 1, delayed))
        self.beats()
        for _ in range(4 * len(self.submitted) + 4):
            for played in self.lanes:
                if not played.held:
                    played.held += played.lane.wait(0.0)
                self.finish(played, len(played.held), "completed")
        states = Counter(record.state if record else "lost" for record in self.queue.records(self.submitted))
        assert not states.keys() - {*TERMINAL}, f"{states}: something never ends"
        assert max(self.commits.values(), default=0) <= 1, "an end was counted twice"
        assert len(self.commits) == states["completed"] + states["failed"], "an end was lost, or came from nowhere"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.mark.timeout(3600)
def test_nothing_waits_while_somebody_could_do_it(server: RedisServer) -> None:
    Quiescence.server = server
    run_state_machine_as_test(
        Quiescence,
        settings=settings(
            max_examples=int(os.environ.get("KAPSTAN_TEST_EXAMPLES", "30")),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
