"""The caller: submits orders, hears of their ends, and does what the documentation tells a caller to do.

A run that the queue does not know any more is submitted again with the same arguments, and so is one that failed since
the store was away. A run in doubt is decided by a person who looks at what happened and says just that.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.chaos import served
from tests.chaos.commits import Commits
from tests.chaos.outside import Outside

from kapstan import backend, ids
from kapstan.errors import BackendError, NotFound, NotPossible, ParkedRun, QueueUnavailable, UnknownRun
from kapstan.futures import Future
from kapstan.ports import Holder, RegisterKey
from kapstan.runs.parked import ParkedKeys

KINDS = ["pure"] * 8 + ["cached"] * 2 + ["idempotent"] * 3 + ["at_most_once"] * 4 + ["transactional"] * 3
"""Of twenty orders."""
TWICE = 0.1
"""Share of the orders with a key that two callers make at once."""


@dataclass(eq=False)
class Call:
    """One caller's wish for one order.

    Attributes:
        ended: when it was told the result; 0.0: not yet.
        heard: when it was told something: that it is parked, or the result.
        again: how often it was submitted once more.
        disturbed: how often Redis lost its last writes while it was being submitted.
    """

    order: str
    kind: str
    arguments: tuple[str, float, float]
    future: Future[str] | None = None
    result: str = ""
    ended: float = 0.0
    heard: list[float] = field(default_factory=list[float])
    again: int = 0
    disturbed: int = 0


@dataclass(frozen=True)
class InDoubt:
    """An execution that was found in doubt, and what the person found outside."""

    order: str
    key: RegisterKey
    epoch: int
    holder: Holder
    happened: bool
    evidence: Mapping[str, Any]


class Client:
    """Calls, no more than ``ahead`` of them open at a time, submitted and collected on two threads until ``enough``."""

    def __init__(self, ahead: int, seed: int, outside: Outside, commits: Commits) -> None:
        self.calls: list[Call] = []
        self.open: dict[str, Call] = {}
        self.in_doubt: list[InDoubt] = []
        self.troubles: list[str] = []
        self.allowed: Counter[str] = Counter()
        self._ahead = ahead
        self._random = random.Random(seed)
        self._outside = outside
        self._commits = commits
        self._changed = threading.Condition()
        self._ended = 0
        self._closed = self._enough = False
        self._submitting = threading.Thread(target=self._submit_all, daemon=True)
        self._collecting = threading.Thread(target=self._collect, daemon=True)

    def start(self) -> None:
        self._submitting.start()
        self._collecting.start()

    @property
    def ended(self) -> int:
        return self._ended

    def allow(self, run_ids: Iterable[str]) -> None:
        """Of these runs one more end may be published: a reason is known."""
        self.allowed.update(run_ids)

    def wait_for(self, ended: int, timeout: float) -> bool:
        """Block until so many calls have ended; False if they have not within ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended >= ended or self.troubles, timeout)
            assert not self.troubles, self.troubles
            return self._ended >= ended

    def enough(self) -> int:
        """Submit nothing more; how many calls there are."""
        self._enough = True
        self._submitting.join(60)
        return len(self.calls)

    def close(self) -> None:
        self._closed = True
        for thread in (self._submitting, self._collecting):
            thread.join(30)

    # ------------------------------------------------------------------ submitting

    def _submit_all(self) -> None:
        while not (self._enough or self._closed):
            with self._changed:
                if not self._changed.wait_for(lambda: len(self.open) < self._ahead, 0.1):
                    continue
            for call in self._next_order():
                self.calls.append(call)
                self._submit(call)

    def _next_order(self) -> list[Call]:
        number, draw = len(self.calls), self._random
        kind = KINDS[number % len(KINDS)]
        arguments = (f"{kind}-{number}", draw.uniform(0.0, 0.015), draw.uniform(0.0, 0.015))
        count = 2 if kind != "pure" and draw.random() < TWICE else 1
        return [Call(arguments[0], kind, arguments) for _ in range(count)]

    def _submit(self, call: Call) -> None:
        while not self._closed:
            try:
                call.future = served.KINDS[call.kind].delay(*call.arguments)
            except QueueUnavailable:
                continue  # whether it was accepted is unknown: safe to do again
            with self._changed:
                self.open[run_id_of(call)] = call
            self.allow([run_id_of(call)] * call.disturbed)
            return

    # ------------------------------------------------------------------ collecting

    def _collect(self) -> None:
        queue = backend.current().queue
        while not self._closed:
            run_ids = list(self.open)
            try:
                ended = queue.wait(run_ids, 0.2) if run_ids else set[str]()
            except QueueUnavailable:
                continue
            if not run_ids:
                time.sleep(0.01)
            for run_id in ended:
                try:
                    self._hear(run_id, self.open[run_id])
                except QueueUnavailable:
                    break
                except Exception as error:  # noqa: BLE001
                    self.troubles.append(f"{self.open[run_id]}: {error!r}")

    def _hear(self, run_id: str, call: Call) -> None:
        assert call.future is not None
        try:
            result = call.future.result(timeout=0.0)
        except TimeoutError:
            return  # forgotten again since
        except ParkedRun:
            call.heard.append(time.monotonic())
            self._decide(call)
            return
        except (UnknownRun, BackendError) as error:
            if isinstance(error, QueueUnavailable):
                raise
            call.again += 1
            with self._changed:
                del self.open[run_id]
            self._submit(call)
            return
        now = time.monotonic()
        with self._changed:
            del self.open[run_id]
            call.result, call.ended = result, now
            call.heard.append(now)
            self._ended += 1
            self._changed.notify_all()

    def _decide(self, call: Call) -> None:
        """A person looks at what happened, says so, and has the runs go on."""
        assert call.future is not None
        parked = ParkedKeys(backend.current())
        try:
            key = parked.find(str(call.future.task_run_id))
            view = parked.view(key)
            if view["state"] == "parked":
                by = self._outside.effect_of(key.key, view["epoch"])
                doubt = InDoubt(call.order, key, view["epoch"], Holder(**view["holder"]), bool(by), view["evidence"])
                if by:
                    parked.say_applied(key, by, view["epoch"])
                else:
                    parked.say_not_applied(key, view["epoch"])
                self.in_doubt.append(doubt)
            # Those that go on, of other callers too: that they were parked was published as well.
            self.allow(ids.parse(run_id) for run_id in parked.go_on(key))
        except (NotFound, NotPossible, BackendError):
            return  # it goes on already, or Redis has forgotten it, or the store is away: one looks again


def run_id_of(call: Call) -> str:
    assert call.future is not None
    return ids.parse(call.future.task_run_id)
