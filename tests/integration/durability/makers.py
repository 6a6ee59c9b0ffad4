"""Tasks of durability ``store``, a worker of one lane whose steps are made one by one, and a Redis that is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

from tests.servers.redis import RedisServer

from kapstan import backend as backends
from kapstan import ids, task
from kapstan.backend import Backend
from kapstan.engine.background import BackgroundEngine, RetryLater
from kapstan.futures import Future
from kapstan.ids import RunId
from kapstan.ports import Claim, Outcome, RunRecord
from kapstan.runs import ends, submissions
from kapstan.runs.rebuild import Fate, Rebuild
from kapstan.settings import Settings
from kapstan.states import EffectClass
from kapstan.tasks import Task

LARGE = 20_000
executed: list[str] = []
"""What was executed, in order: the test that begins clears it."""


def _work(tag: str, then: str = "") -> str:
    executed.append(tag)
    if then == "fails" or (then == "fails once" and executed.count(tag) == 1):
        raise ValueError(tag)
    return tag * LARGE if then == "large" else tag


work: Task[..., Any] = task(_work, name="durable work", durability="store")
kept: Task[..., Any] = task(_work, name="durable kept", durability="store", persist_result=True)
retried: Task[..., Any] = task(_work, name="durable retried", durability="store", retries=2)
once: Task[..., Any] = task(_work, name="durable once", durability="store", effect="at_most_once")
alike: Task[..., Any] = task(_work, name="durable alike", durability="store", effect="idempotent")
TASKS = (work, kept, retried, once, alike)


def id_of(future: Future[Any]) -> RunId:
    return ids.parse(future.task_run_id)


class Hand:
    """A worker of one lane in this process; nothing happens but what the test asks for."""

    def __init__(self, backend: Backend, *, max_crashes: int = 3) -> None:
        names = [each.task_key for each in TASKS]
        self.session = backend.queue.open_session("hand", names, 1)
        self.lane = backend.queue.open_lane(self.session.name, 0, names)
        self.engine = BackgroundEngine({each.task_key: each.spec for each in TASKS}, backend)

    def claim(self) -> Claim:
        (claim,) = self.lane.step([], 1).claims
        return claim

    def execute(self, claim: Claim) -> Outcome:
        """The outcome as it goes to the queue, its end noted."""
        return self.engine.stored(self.executed(claim))

    def executed(self, claim: Claim) -> Outcome:
        outcome = self.engine.run(claim)
        assert type(outcome) is Outcome, outcome
        return outcome

    def tell(self, outcome: Outcome) -> list[RunId]:
        """Those that the queue did not take."""
        return self.lane.step([outcome], 0).lost

    def work(self, most: int = 1000) -> int:
        """Execute what is ready; how many runs."""
        for done in range(most):
            claims = self.lane.step([], 1).claims
            if not claims:
                # Idle no more: what comes later is not handed to it. What came before is in the answer.
                claims = self.lane.step([], 0).claims
            if not claims:
                return done
            found = self.engine.run(claims[0])
            if type(found) is RetryLater:
                self.lane.retry(found.run_id, found.token, 0.0, counted=found.counted)
            else:
                assert self.tell(self.engine.stored(found)) == []  # type: ignore[arg-type]
        return most

    def die(self) -> None:
        """As by SIGKILL, and its lease is over."""
        for part in (self.lane, self.session):
            part._wire.close()  # type: ignore[attr-defined]
        backends.current().queue.expire_session(self.session.name)

    def close(self) -> None:
        self.lane.close()
        self.session.close()
        self.engine.close()


class Shop:
    """A namespace whose Redis can be lost."""

    def __init__(self, settings: Settings, server: RedisServer) -> None:
        executed.clear()
        self.settings = settings
        self.server = server
        self._hands: list[Hand] = []

    @property
    def backend(self) -> Backend:
        return backends.current()

    def hand(self) -> Hand:
        self._hands.append(Hand(self.backend))
        return self._hands[-1]

    def close(self) -> None:
        for hand in self._hands:
            hand.close()

    def lose_redis(self) -> None:
        """Its machine is gone, and an empty one has its address. This process goes on as another would."""
        self.close()
        self._hands.clear()
        self.server.kill()
        shutil.rmtree(self.server.folder)
        self.server.start()
        with self.server.client() as client:
            assert client.dbsize() == 0
        backends.use(self.settings)

    def flush(self) -> None:
        """A person has emptied Redis, under workers and clients that go on."""
        with self.server.client() as client:
            client.flushall()

    def rebuild(self, **options: Any) -> dict[Fate, int]:
        """What became of how many runs."""
        report = Rebuild(self.backend, **options).run()
        assert report.unreadable == {}
        return dict(report.total)

    # ------------------------------------------------------------------ what is there

    def record(self, run_id: RunId) -> RunRecord | None:
        return self.backend.queue.record(run_id)

    def state(self, run_id: RunId) -> str:
        record = self.record(run_id)
        return "unknown" if record is None else record.state

    def stored(self) -> tuple[list[RunId], list[RunId]]:
        """The runs that have a submission, and those whose end is noted."""
        return tuple(  # type: ignore[return-value]
            [key.rpartition("/")[2] for key in self.backend.store.keys(folder)]
            for folder in (submissions.FOLDER, ends.FOLDER)
        )

    def noted(self, run_id: RunId) -> str:
        ended = ends.read(self.backend, run_id)
        return "" if ended is None else ended.state


class Away(Exception):
    """Raised by what a test puts in the place of a call: the process dies there."""


def dying(*_: object, **__: object) -> Any:
    raise Away


EFFECTS: dict[EffectClass, Task[..., Any]] = {each.spec.effect: each for each in (work, once, alike)}
Break = Callable[[str, Any], None]
