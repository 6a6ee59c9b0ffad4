"""What the queue's tests make: submissions, outcomes, an era register, and one worker of one lane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kapstan.codec import Codec
from kapstan.ids import RunId, new_id
from kapstan.ports import Claim, Lane, Outcome, Queue, Session, Submission
from kapstan.signing_key import SigningKey

TASK = "shop.tasks:charge"
CODEC = Codec("team", [SigningKey.of(b"k" * 32)])


class Register:
    """An era register in memory, as durable as the test."""

    def __init__(self) -> None:
        self.era = 0
        self.start = ""

    def current(self) -> int:
        return self.era

    def raise_for(self, start: str, above: int) -> int:
        if self.start != start or self.era <= above:
            self.era, self.start = max(self.era, above) + 1, start
        return self.era


def run(task: str = TASK, *, run_id: RunId | None = None, **fields: Any) -> Submission:
    given = {"envelope": b"arguments", "fingerprint": "same-inputs", **fields}
    return Submission(run_id or new_id(), task, **given)


def done(claim: Claim, envelope: bytes = b"result", state: Any = "completed") -> Outcome:
    return Outcome(claim.run_id, claim.token, state, envelope)


@dataclass
class Worker:
    """A session and its lanes."""

    session: Session
    lanes: list[Lane]

    @property
    def lane(self) -> Lane:
        return self.lanes[0]

    def die(self) -> None:
        """As the kernel ends it: its connections are closed, and nobody is told."""
        for part in (*self.lanes, self.session):
            part._wire.close()  # type: ignore[attr-defined]

    def close(self) -> None:
        for lane in self.lanes:
            lane.close()
        self.session.close()


def worker(queue: Queue, tasks: Sequence[str] = (TASK,), lanes: int = 1, *, name: str | None = None) -> Worker:
    session = queue.open_session("shop", tasks, lanes, session=name)
    return Worker(session, [queue.open_lane(session.name, index, tasks) for index in range(lanes)])
