"""Runs of durability ``store`` in the queue: whoever claims or reads one is told so, as long as there is a record; and
ends that the queue has lost can be shown again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.contract.queue.makers import TASK, Worker, done, run
from tests.contract.queue.test_expires import HOUR, hours_pass

from kapstan.durability import Durability
from kapstan.ids import RunId, Token, new_id
from kapstan.ports import BackgroundFilter, Change, RunRecord, StoredClaim, Submission
from kapstan.queue.background_runs import RedisBackgroundRuns
from kapstan.queue.redis import RedisQueue
from kapstan.states import EffectClass

Hire = Callable[..., Worker]


def kept(**fields: object) -> Submission:
    return run(durability=Durability.STORE, **fields)  # type: ignore[arg-type]


def record_of(queue: RedisQueue, run_id: RunId) -> RunRecord:
    record = queue.record(run_id)
    assert record is not None
    return record


def stored_of(worker: Worker) -> StoredClaim | None:
    (claim,) = worker.lane.step([], 1).claims
    return claim.stored


@pytest.mark.parametrize("many", [False, True])
def test_a_claim_says_so_and_what_is_to_be_noted(queue: RedisQueue, hire: Hire, many: bool) -> None:
    worker = hire()
    submission = kept(priority=3, group="g")
    queue.submit_many([submission]) if many else queue.submit(submission)
    assert record_of(queue, submission.run_id).stored
    assert stored_of(worker) == StoredClaim("default", 3, "g", "same-inputs", begun=False)
    queue.submit(run())
    assert stored_of(hire()) is None


def test_one_that_is_handed_over(queue: RedisQueue, hire: Hire) -> None:
    worker = hire()
    assert worker.lane.step([], 1).claims == []
    queue.submit(kept())
    (claim,) = worker.lane.wait(10.0)
    assert claim.stored == StoredClaim("default", 0, "", "same-inputs", begun=False)


@pytest.mark.parametrize("effect", list(EffectClass))
def test_it_stays_so_whatever_becomes_of_the_claim(queue: RedisQueue, hire: Hire, effect: EffectClass) -> None:
    queue.submit(kept(effect=effect, expires=HOUR))
    worker = hire()
    (claim,) = worker.lane.step([], 1).claims
    worker.lane.give_back([], claim.run_id)
    (claim,) = worker.lane.step([], 1).claims
    assert claim.stored is not None
    assert claim.stored.begun
    worker.session.lane_died(0, claim.run_id)
    (claim,) = worker.lane.step([], 1).claims
    assert claim.stored is not None
    assert worker.lane.retry(claim.run_id, claim.token, 0.0)
    (claim,) = worker.lane.step([], 1).claims
    assert claim.stored is not None
    worker.die()
    queue.expire_session(worker.session.name)
    other = hire()
    (claim,) = other.lane.step([], 1).claims
    assert claim.stored is not None
    other.lane.step([done(claim, b"K" * 52, "parked")], 0)
    runs = RedisBackgroundRuns(queue)
    assert runs.rerun(claim.run_id)[0] is Change.DONE
    (claim,) = other.lane.step([], 1).claims
    assert claim.stored is not None
    other.lane.step([done(claim, state="failed")], 0)
    assert record_of(queue, claim.run_id).stored
    runs.rerun(claim.run_id)
    (claim,) = other.lane.step([], 1).claims
    assert claim.stored is not None
    other.lane.step([done(claim)], 0)
    ended = record_of(queue, claim.run_id)
    assert (ended.state, ended.stored, ended.envelope) == ("completed", True, b"result")


@pytest.mark.parametrize("held", [False, True])
def test_its_deadline_ends_it_as_any(queue: RedisQueue, hire: Hire, held: bool) -> None:
    submission = kept(expires=HOUR)
    queue.submit(submission)
    worker = hire()
    if held:
        worker.lane.step([], 1)
    hours_pass(queue, 2)
    worker.session.renew()
    if held:
        worker.lane.give_back([])
    record = record_of(queue, submission.run_id)
    assert (record.state, record.expired, record.stored) == ("cancelled", True, True)


def test_a_cancel_ends_it_as_any(queue: RedisQueue) -> None:
    submission = kept()
    queue.submit(submission)
    assert queue.cancel(submission.run_id) == "ready"
    record = record_of(queue, submission.run_id)
    assert (record.state, record.stored) == ("cancelled", True)


def test_one_whose_process_dies_too_often_is_ended_by_its_next_claim(queue: RedisQueue, hire: Hire) -> None:
    submission = kept()
    queue.submit(submission)
    worker = hire()
    most = queue.settings.max_crashes
    for _ in range(most + 1):
        worker.lane.step([], 1)
        worker.session.lane_died(0, submission.run_id, b"reason")
    record = record_of(queue, submission.run_id)
    assert (record.state, record.crashes) == ("ready", most + 1)
    (claim,) = worker.lane.step([], 1).claims
    assert claim.crashes > most


def test_what_is_submitted_again_may_have_begun(queue: RedisQueue, hire: Hire) -> None:
    queue.submit(kept(begun=True))
    worker = hire()
    (claim,) = worker.lane.step([], 1).claims
    assert claim.stored is not None
    assert (claim.stored.begun, claim.cancelled, claim.token.epoch) == (True, False, 1)
    worker.lane.step([done(claim)], 0)
    submission = kept(begun=True, effect=EffectClass.AT_MOST_ONCE)
    queue.submit(submission)
    assert queue.cancel(submission.run_id) == "running", "in doubt: no script ends it"
    (claim,) = worker.lane.step([], 1).claims
    assert claim.cancelled


@pytest.mark.parametrize("effect", [EffectClass.PURE, EffectClass.AT_MOST_ONCE])
def test_what_is_submitted_again_as_cancelled_is_claimed_so(queue: RedisQueue, hire: Hire, effect: EffectClass) -> None:
    queue.submit(kept(begun=True, cancelled=True, effect=effect))
    (claim,) = hire().lane.step([], 1).claims
    assert claim.cancelled


def test_flags_of_what_is_not_stored_do_not_count(queue: RedisQueue, hire: Hire) -> None:
    queue.submit(run(begun=True, cancelled=True))
    (claim,) = hire().lane.step([], 1).claims
    assert (claim.stored, claim.cancelled) == (None, False)


ENDED = RunRecord(
    new_id(),
    TASK,
    "slow",
    "failed",
    Token(3, 7),
    12,
    2,
    b"\0why\0",
    1.7e9,
    1.6e9,
    "a-session",
    effect=EffectClass.IDEMPOTENT,
    priority=-4,
    group="a group",
    fingerprint="same-inputs",
    stored=True,
)


@pytest.mark.parametrize(
    "ended",
    [
        ENDED,
        replace(ENDED, state="completed", queue="default", priority=0, group=""),
        replace(ENDED, state="cancelled", expired=True, started=None, session="", envelope=b""),
        replace(ENDED, state="crashed", stored=False),
    ],
    ids=lambda ended: ended.state,
)
def test_an_end_is_shown_again_as_it_was(queue: RedisQueue, ended: RunRecord) -> None:
    assert RedisBackgroundRuns(queue).restore(ended, b"arguments", 3600)
    found = record_of(queue, ended.run_id)
    told = ("since", "started", "session", "key", "effect", "priority", "group", "expired", "fingerprint", "stored")
    assert found == ended
    assert [getattr(found, name) for name in told] == [getattr(ended, name) for name in told]
    listed = RedisBackgroundRuns(queue).look(ended.run_id)
    assert listed is not None
    assert listed.session == ended.session


def test_an_end_that_is_shown_again_goes_and_can_be_run_once_more(queue: RedisQueue, hire: Hire) -> None:
    runs, ended = RedisBackgroundRuns(queue), replace(ENDED, queue="default")
    assert runs.restore(ended, b"arguments", 3600)
    seconds = queue.command(
        b"*2\r\n$3\r\nTTL\r\n$%d\r\n%s\r\n" % (len(key := f"{queue.prefix}t:{ended.run_id}"), key.encode())
    )
    assert 3500 < seconds <= 3600
    assert runs.rerun(ended.run_id) == (Change.DONE, "failed")
    (claim,) = hire().lane.step([], 1).claims
    assert (claim.envelope, claim.attempt, claim.crashes) == (b"arguments", 1, 0)
    assert claim.token.epoch == ended.token.epoch + 1
    assert claim.stored is not None


def test_an_end_of_a_run_that_the_queue_knows_is_not_shown(queue: RedisQueue) -> None:
    submission = kept()
    queue.submit(submission)
    ended = replace(ENDED, run_id=submission.run_id)
    assert not RedisBackgroundRuns(queue).restore(ended, b"arguments", 3600)
    assert record_of(queue, submission.run_id).state == "ready"
    assert queue.submit(submission).duplicate


def test_without_arguments_it_is_not_run_once_more(queue: RedisQueue) -> None:
    runs, ended = RedisBackgroundRuns(queue), replace(ENDED, run_id=new_id())
    assert runs.restore(ended, b"", 3600)
    assert runs.rerun(ended.run_id) == (Change.GONE, "failed")
    assert runs.page(BackgroundFilter(), 10).runs == [], "lists do not show it"
    assert runs.delete(ended.run_id) == (Change.DONE, "failed")
