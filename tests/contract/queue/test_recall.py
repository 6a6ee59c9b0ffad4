"""A supervisor takes back what waits behind a run that holds its process: nothing is ever both handed back and begun.

The child is played step by step by the test, on its real lane, session and board, so that it moves at the very moment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.contract.queue.makers import done, run

from kapstan.ids import RunId, Token
from kapstan.ports import Claim
from kapstan.queue.redis import RedisQueue
from kapstan.worker.board import Board, Slot
from kapstan.worker.recall import order_memory, recall, register

Hire = Callable[..., Any]


class Child:
    """What an executor does with its lane and slot, one step at a time; it holds three runs and executes the first."""

    def __init__(self, queue: RedisQueue, hire: Hire) -> None:
        queue.submit_many([run() for _ in range(3)])
        worker = hire()
        self.session = worker.session
        self.lane = worker.lane
        self.slot: Slot = Board(1).slots[0]
        self.claims = self.claim()
        self.begins(0)

    def claim(self) -> list[Claim]:
        claims = self.lane.step([], 3).claims
        self.slot.load(claims, 0, under_way=False)
        return claims

    def begins(self, position: int) -> bool:
        """Whether it executes the run at ``position``: it looks for a recall after it has said which run it begins."""
        self.slot.begin(position, self.claims[position].effect, 1.0 + position)
        return not self.slot.recalled

    def settles(self) -> None:
        """It hands in its first run, gives back the others and goes on."""
        self.slot.rest()
        assert self.lane.step([done(self.claims[0])], 0).lost == []
        self.lane.give_back([])
        self.slot.recalled = False


class Meanwhile:
    """A session before whose calls something happens: this process was stopped, or its word was long on its way."""

    def __init__(self, session: Any, *, claims: Callable[[], Any] | None = None, take_back: Any = None) -> None:
        self._session = session
        self._before_claims, self._before_take_back = claims, take_back
        self.taken: list[RunId] | None = None

    def claims(self) -> list[tuple[int, RunId, Token]]:
        if self._before_claims is not None:
            self._before_claims()
        return self._session.claims()

    def take_back(self, claims: Sequence[tuple[RunId, Token]]) -> list[RunId]:
        if self._before_take_back is not None:
            self._before_take_back()
        self.taken = self._session.take_back(claims)
        return self.taken


@pytest.fixture
def child(queue: RedisQueue, hire: Hire) -> Child:
    return Child(queue, hire)


def test_what_waits_goes_back_and_is_not_begun(queue: RedisQueue, child: Child) -> None:
    assert recall(child.slot, 0, child.session)
    states = [queue.record(claim.run_id).state for claim in child.claims]
    assert states == ["running", "ready", "ready"]
    assert not child.begins(1)


def test_a_cancelled_run_that_waits_ends_at_once(queue: RedisQueue, child: Child) -> None:
    _, second, third = child.claims
    assert queue.cancel(second.run_id) == "running"
    assert recall(child.slot, 0, child.session)
    assert [queue.record(each.run_id).state for each in (second, third)] == ["cancelled", "ready"]
    assert not child.begins(1)


def test_a_claim_on_its_way_to_a_child_that_hangs_goes_back(queue: RedisQueue, child: Child) -> None:
    """Its step was carried out and the child has not read the answer: the board does not know of it."""
    submission = run()
    queue.submit(submission)
    child.lane.send_step([], 1)
    while queue.record(submission.run_id).state != "running":
        continue
    assert recall(child.slot, 0, child.session)
    assert queue.record(submission.run_id).state == "ready"


def test_a_word_that_comes_late_takes_nothing_of_the_next_batch(queue: RedisQueue, child: Child) -> None:
    _, second, third = child.claims

    def goes_on() -> None:
        assert not child.begins(1)
        child.settles()
        child.claims = child.claim()
        assert [claim.run_id for claim in child.claims] == [second.run_id, third.run_id]
        assert child.begins(0)

    session = Meanwhile(child.session, take_back=goes_on)
    recall(child.slot, 0, session)  # type: ignore[arg-type]
    assert session.taken == []
    assert queue.record(second.run_id).state == "running", "handed back and begun"
    assert child.lane.step([done(claim) for claim in child.claims], 0).lost == []


def test_a_child_that_went_on_before_it_was_looked_at_keeps_its_next_batch(queue: RedisQueue, child: Child) -> None:
    def goes_on() -> None:
        child.settles()
        child.claims = child.claim()
        assert child.begins(0)

    session = Meanwhile(child.session, claims=goes_on)
    assert not recall(child.slot, 0, session)  # type: ignore[arg-type]
    assert session.taken is None
    assert child.lane.step([done(claim) for claim in child.claims], 0).lost == []


def test_a_child_that_goes_on_within_its_batch_is_asked_nothing_and_sees_it(child: Child) -> None:
    seen: list[bool] = []
    session = Meanwhile(child.session, claims=lambda: seen.append(child.begins(1)))
    assert not recall(child.slot, 0, session)  # type: ignore[arg-type]
    assert seen == [False], "recalled before it was looked at: nothing more begins"
    assert session.taken is None


def test_memory_is_put_in_order_with_and_without_the_kernels_help(monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    order_memory()
    monkeypatch.setattr("kapstan.worker.recall._SYSCALL", None)
    order_memory()
