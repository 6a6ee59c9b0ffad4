"""Random histories of submits under one key: the last arguments run once, when the last wishes say so."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tests.contract.queue.makers import TASK, Worker, done, run
from tests.contract.queue.test_expires import HOUR, hours_pass

from kapstan.ids import RunId
from kapstan.ports import Claim, Submission
from kapstan.queue.redis import RedisQueue
from kapstan.queue.wire import pack

KEY, OTHER = "document-42", "shop.tasks:other"
OPEN = {"ready", "delayed", "running"}
EVENTS = (
    "submit",
    "submit",
    "begin_other",
    "end_other",
    "claim",
    "claim",
    "end_run",
    "give_back",
    "pass_time",
    "cancel",
)


class History:
    """Submits with whatever wishes, between all that may become of their runs and of those that they wait for."""

    def __init__(self, queue: RedisQueue, worker: Worker, other: Worker, draw: random.Random) -> None:
        self.queue, self.worker, self.other, self.draw = queue, worker, other, draw
        self.last: dict[RunId, Submission] = {}
        self.run_id: RunId = ""
        self.held: list[tuple[int, Claim]] = []
        self.others: list[RunId] = []
        self.hours, self.number, self.ended = 0.0, 0, list[RunId]()

    def state(self, run_id: RunId) -> str:
        record = self.queue.record(run_id)
        assert record is not None
        return record.state

    def submit(self) -> None:
        self.number += 1
        waits = bool(self.run_id) and self.state(self.run_id) in ("ready", "delayed")
        wishes: dict[str, Any] = {
            "envelope": b"%d" % self.number,
            "delay": self.draw.choice([0.0, 0.0, HOUR]),
            "priority": self.draw.choice([0, 0, 5, -5]),
            "group": self.draw.choice(["", "", "g", "h"]),
            "expires": self.draw.choice([None, None, 10_000 * HOUR]),
            "after": tuple(self.draw.sample(self.others, min(len(self.others), self.draw.choice([0, 0, 1, 2])))),
        }
        made: dict[RunId, Submission] = {}

        def make(run_id: RunId) -> Submission:
            made[run_id] = run(run_id=run_id, **wishes)
            return made[run_id]

        found, answer = self.queue.replace(KEY, make)
        assert (found == self.run_id, answer.duplicate) == (waits, waits)
        self.run_id, self.last[found] = found, made[found]

    def claim(self) -> None:
        at = self.draw.randrange(len(self.worker.lanes))
        for claim in self.worker.lanes[at].step([], 1).claims:
            submission = self.last[claim.run_id]
            assert claim.envelope == submission.envelope
            states = {self.state(run_id) for run_id in submission.after}
            assert not states & OPEN or states & {"failed", "cancelled"}, "it waits for those of the last submit"
            self.held.append((at, claim))

    def end_run(self) -> None:
        if self.held:
            at, claim = self.held.pop(self.draw.randrange(len(self.held)))
            assert self.worker.lanes[at].step([done(claim)], 0).lost == []
            self.ended.append(claim.run_id)

    def give_back(self) -> None:
        back = self.draw.choice(self.worker.lanes).give_back([])
        self.held = [(at, claim) for at, claim in self.held if claim.run_id not in back]

    def begin_other(self) -> None:
        self.others.append(run(OTHER).run_id)
        self.queue.submit(run(OTHER, run_id=self.others[-1]))

    def end_other(self) -> None:
        state = self.draw.choice(["completed", "completed", "failed"])
        claims = self.other.lane.step([], 1).claims
        self.other.lane.step([done(claim, state=state) for claim in claims], 0)

    def pass_time(self) -> None:
        self.hours += 1.1
        hours_pass(self.queue, self.hours)
        self.worker.session.renew()

    def cancel(self) -> None:
        if self.run_id and self.draw.random() < 0.3:
            self.queue.cancel(self.run_id)

    def finish(self) -> None:
        """Let everything come to its end, and look what is left."""
        for _ in range(len(self.others) + 20):
            self.pass_time()
            self.end_other()
            self.claim()
            while self.held:
                self.end_run()
        for run_id in self.last:
            assert self.state(run_id) in ("completed", "cancelled")
        assert len({*self.ended}) == len(self.ended)
        keys = [
            key.decode()[len(self.queue.prefix) :] for key in self.queue.command(pack("KEYS", f"{self.queue.prefix}*"))
        ]
        assert [key for key in keys if key.startswith(("q:", "turn:", "af:", "aw", "ae", "v", "ex", "d"))] == []
        assert self.queue.command(pack("HKEYS", f"{self.queue.prefix}n")) == []


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_the_last_arguments_run_once_and_nothing_is_left(queue: RedisQueue, hire, seed: int) -> None:
    history = History(queue, hire((TASK,), 2), hire((OTHER,)), random.Random(seed))
    for _ in range(150):
        getattr(history, history.draw.choice(EVENTS))()
    history.finish()
