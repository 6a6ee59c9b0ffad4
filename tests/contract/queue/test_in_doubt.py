"""A run of class at_most_once that may have begun: the queue never ends it, whatever is asked; whoever claims it next
looks at the register of its key, and ends it as that says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.contract.queue.makers import TASK, Worker, done, run
from tests.contract.queue.test_expires import HOUR, hours_pass

from kapstan.ids import RunId
from kapstan.ports import Change, Claim
from kapstan.queue.background_runs import RedisBackgroundRuns
from kapstan.queue.redis import RedisQueue

Hire = Callable[..., Worker]
Loss = Callable[[RedisQueue, Worker, Claim], None]


def session_ends(queue: RedisQueue, worker: Worker, _: Claim) -> None:
    worker.die()
    assert queue.expire_session(worker.session.name)


def child_dies(_: RedisQueue, worker: Worker, claim: Claim) -> None:
    worker.session.lane_died(0, claim.run_id, b"reason")


def child_dies_behind_its_body(_: RedisQueue, worker: Worker, __: Claim) -> None:
    """The register has its result, and the queue does not."""
    worker.session.lane_died(0, None)


def broken_off(_: RedisQueue, worker: Worker, claim: Claim) -> None:
    worker.lane.give_back([], claim.run_id)


def next_child_comes_first(queue: RedisQueue, worker: Worker, _: Claim) -> None:
    """It says what it knows before anybody has told of the death of the one before it."""
    lane = queue.open_lane(worker.session.name, 0, [TASK])
    lane.step([], 0)
    lane.close()


LOSSES = [session_ends, child_dies, child_dies_behind_its_body, broken_off, next_child_comes_first]


def begun(queue: RedisQueue, hire: Hire, effect: str = "a", **fields: object) -> tuple[Worker, Claim]:
    queue.submit(run(effect=effect, **fields))  # type: ignore[arg-type]
    worker = hire()
    (claim,) = worker.lane.step([], 1).claims
    return worker, claim


def state_of(queue: RedisQueue, run_id: RunId) -> str:
    record = queue.record(run_id)
    assert record is not None
    return record.state


def settles(queue: RedisQueue, hire: Hire, claim: Claim) -> None:
    """The next claim is to be cancelled, has its arguments, and ends the run."""
    other = hire()
    (again,) = other.lane.step([], 1).claims
    assert (again.run_id, again.cancelled, again.envelope) == (claim.run_id, True, b"arguments")
    assert again.token > claim.token
    other.lane.step([done(again, b"", "cancelled")], 0)
    assert state_of(queue, claim.run_id) == "cancelled"


@pytest.mark.parametrize("loses", LOSSES)
def test_a_cancel_that_the_loss_of_its_worker_follows(queue: RedisQueue, hire: Hire, loses: Loss) -> None:
    worker, claim = begun(queue, hire)
    assert not claim.cancelled
    assert queue.cancel(claim.run_id) == "running"
    loses(queue, worker, claim)
    assert state_of(queue, claim.run_id) == "ready"
    settles(queue, hire, claim)


@pytest.mark.parametrize("loses", LOSSES)
def test_a_cancel_after_the_loss_of_its_worker(queue: RedisQueue, hire: Hire, loses: Loss) -> None:
    worker, claim = begun(queue, hire)
    loses(queue, worker, claim)
    assert queue.cancel(claim.run_id) == "running"
    assert queue.cancel(claim.run_id) == "running"
    assert state_of(queue, claim.run_id) == "ready"
    settles(queue, hire, claim)


def test_one_that_waits_for_its_key_meanwhile(queue: RedisQueue, hire: Hire) -> None:
    """Its holder may live: it goes back unexecuted, again and again, and stays in doubt."""
    worker, claim = begun(queue, hire)
    child_dies(queue, worker, claim)
    (second,) = worker.lane.step([], 1).claims
    assert queue.cancel(claim.run_id) == "running"
    assert worker.lane.retry(second.run_id, second.token, 3600.0, counted=False)
    assert state_of(queue, claim.run_id) == "delayed"
    assert queue.cancel(claim.run_id) == "running"
    assert state_of(queue, claim.run_id) == "delayed"


def test_crashes_never_end_it(queue: RedisQueue, hire: Hire) -> None:
    worker, claim = begun(queue, hire)
    for crashes in range(5):
        assert (claim.crashes, claim.cancelled) == (crashes, False)
        assert not worker.session.lane_died(0, claim.run_id, b"reason")
        (claim,) = worker.lane.step([], 1).claims


def test_one_whose_body_raised_is_known(queue: RedisQueue, hire: Hire) -> None:
    worker, claim = begun(queue, hire)
    child_dies(queue, worker, claim)
    (second,) = worker.lane.step([], 1).claims
    assert worker.lane.retry(second.run_id, second.token, 3600.0)
    assert queue.cancel(claim.run_id) == "delayed"
    assert state_of(queue, claim.run_id) == "cancelled"


def test_its_end_forgets_the_doubt(queue: RedisQueue, hire: Hire) -> None:
    worker, claim = begun(queue, hire)
    child_dies(queue, worker, claim)
    (second,) = worker.lane.step([], 1).claims
    worker.lane.step([done(second)], 0)
    record = queue.record(claim.run_id)
    assert record is not None
    assert (record.state, record.envelope, record.expired) == ("completed", b"result", False)


@pytest.mark.parametrize("loses", LOSSES)
@pytest.mark.parametrize("effect", ["p", "i", "t"])
def test_runs_of_other_classes_end_at_once(queue: RedisQueue, hire: Hire, effect: str, loses: Loss) -> None:
    worker, claim = begun(queue, hire, effect)
    queue.cancel(claim.run_id)
    loses(queue, worker, claim)
    assert state_of(queue, claim.run_id) == "cancelled"


def test_one_that_was_given_back_unbegun_ends_at_once(queue: RedisQueue, hire: Hire) -> None:
    worker, claim = begun(queue, hire)
    queue.cancel(claim.run_id)
    worker.lane.give_back([])
    assert state_of(queue, claim.run_id) == "cancelled"


def test_a_deadline_does_not_end_it(queue: RedisQueue, hire: Hire) -> None:
    worker, claim = begun(queue, hire, expires=HOUR)
    child_dies(queue, worker, claim)
    hours_pass(queue, 2)
    worker.session.renew()
    assert state_of(queue, claim.run_id) == "ready"


def test_a_replace_key_leaves_it_alone(queue: RedisQueue, hire: Hire) -> None:
    """Other arguments would make it another request."""

    def replaced() -> RunId:
        return queue.replace("document-42", lambda run_id: run(run_id=run_id, effect="a"))[0]  # type: ignore[arg-type]

    first = replaced()
    worker = hire()
    (claim,) = worker.lane.step([], 1).claims
    child_dies(queue, worker, claim)
    assert replaced() != first
    assert state_of(queue, first) == "ready"


@pytest.mark.parametrize("cancelled", [False, True])
def test_one_that_was_parked_is_in_doubt_when_it_goes_on(queue: RedisQueue, hire: Hire, cancelled: bool) -> None:
    """Somebody has decided, and the register knows how; a cancel is not forgotten over that."""
    worker, claim = begun(queue, hire)
    if cancelled:
        queue.cancel(claim.run_id)
    worker.lane.step([done(claim, b"a" * 52, "parked")], 0)
    assert RedisBackgroundRuns(queue).rerun(claim.run_id) == (Change.DONE, "parked")
    if not cancelled:
        assert queue.cancel(claim.run_id) == "running"
    settles(queue, hire, claim)


def test_a_cancel_does_not_reach_what_a_person_has_begun_anew(queue: RedisQueue, hire: Hire) -> None:
    """By the same session, before its next beat."""
    worker, claim = begun(queue, hire, "p")
    queue.cancel(claim.run_id)
    child_dies(queue, worker, claim)
    assert RedisBackgroundRuns(queue).rerun(claim.run_id) == (Change.DONE, "cancelled")
    (again,) = worker.lane.step([], 1).claims
    assert again.run_id == claim.run_id
    assert worker.session.renew().cancelled == []
