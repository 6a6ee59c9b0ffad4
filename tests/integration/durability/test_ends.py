"""Durability ``store``, the worker's part: an end is in the store before the queue is told, and is found there."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.durability.makers import LARGE, Hand, Shop, alike, executed, id_of, kept, retried, work

from kapstan import ids
from kapstan.errors import NotPossible, StoreUnavailable
from kapstan.ports import Outcome
from kapstan.runs import ends, submissions
from kapstan.runs.ends import FOLDER
from kapstan.runs.rebuild import Fate
from kapstan.runs.task_runs import TaskRuns

ENDS = pytest.mark.parametrize(("then", "state"), [("", "completed"), ("large", "completed"), ("fails", "failed")])


@ENDS
def test_an_end_is_noted_before_the_queue_is_told(shop: Shop, then: str, state: str) -> None:
    run_id, hand = id_of(work.delay("a", then)), shop.hand()
    outcome = hand.execute(hand.claim())
    assert (shop.noted(run_id), shop.state(run_id)) == (state, "running")
    assert shop.stored() == ([] if state == "completed" else [run_id], [run_id])
    assert hand.tell(outcome) == []
    record, ended = shop.record(run_id), ends.read(shop.backend, run_id)
    assert record is not None
    assert ended is not None
    assert (record.state, record.envelope, record.token) == (ended.state, ended.envelope, ended.token)
    assert record.stored


def test_runs_of_other_levels_leave_nothing(shop: Shop) -> None:
    work.with_options(durability="redis").delay("a")
    assert shop.hand().work() == 1
    assert shop.stored() == ([], [])


@ENDS
def test_a_worker_that_dies_behind_its_note_has_ended_the_run(shop: Shop, then: str, state: str) -> None:
    future, hand = work.delay("a", then), shop.hand()
    hand.execute(hand.claim())
    hand.die()
    assert shop.hand().work() == 1
    assert (executed, shop.state(id_of(future))) == (["a"], state)
    if then == "large":
        assert future.result(timeout=10) == "a" * LARGE


def test_a_worker_that_dies_before_its_note_has_not(shop: Shop) -> None:
    future, hand = work.delay("a"), shop.hand()
    hand.executed(hand.claim())
    hand.die()
    assert shop.hand().work() == 1
    assert (executed, future.result(timeout=10)) == (["a", "a"], "a")


def test_of_two_that_execute_it_the_first_that_completes_it_counts(shop: Shop) -> None:
    run_id, slow = id_of(work.delay("a")), shop.hand()
    late = slow.executed(slow.claim())
    slow.die()
    assert shop.hand().work() == 1
    before = ends.read(shop.backend, run_id)
    other = late._replace(state="failed", envelope=b"whatever")
    assert slow.engine.stored(other).state == "completed"
    assert ends.read(shop.backend, run_id) == before


def test_a_late_failure_of_an_older_claim_does_not_count(shop: Shop) -> None:
    run_id, slow = id_of(work.delay("a", "fails once")), shop.hand()
    late = slow.executed(slow.claim())
    assert late.state == "failed"
    slow.die()
    quick = shop.hand()
    outcome = quick.execute(quick.claim())
    assert slow.engine.stored(late).state == "completed"
    assert quick.tell(outcome) == []
    assert (shop.noted(run_id), shop.state(run_id)) == ("completed", "completed")


def two_outcomes(shop: Shop, then: str) -> tuple[Hand, Outcome, Hand, Outcome]:
    """Of a run that was executed twice, and of which nothing is noted: an older claim's, and a younger one's."""
    work.delay("a", then)
    slow = shop.hand()
    late = slow.executed(slow.claim())
    slow.die()
    quick = shop.hand()
    return slow, late, quick, quick.executed(quick.claim())


def test_a_completion_stands_against_a_failure_of_a_younger_claim(shop: Shop) -> None:
    slow, late, quick, outcome = two_outcomes(shop, "")
    assert slow.engine.stored(late).state == "completed"
    adopted = quick.engine.stored(outcome._replace(state="failed", envelope=b"whatever"))
    assert (adopted.state, adopted.envelope, adopted.token) == ("completed", late.envelope, outcome.token)
    assert quick.tell(adopted) == []


def test_of_two_failures_that_of_the_younger_claim_stands(shop: Shop) -> None:
    slow, late, quick, outcome = two_outcomes(shop, "fails")
    assert quick.tell(quick.engine.stored(outcome)) == []
    slow.engine.stored(late)
    ended = ends.read(shop.backend, late.run_id)
    assert ended is not None
    assert (ended.token, ended.envelope) == (outcome.token, outcome.envelope)


def test_a_failure_of_an_older_claim_that_was_noted_gives_way(shop: Shop) -> None:
    """Its worker was slow to note it, and another had the run meanwhile."""
    run_id, slow = id_of(work.delay("a", "fails once")), shop.hand()
    late = slow.executed(slow.claim())
    slow.die()
    quick = shop.hand()
    outcome = quick.executed(quick.claim())
    assert slow.engine.stored(late).state == shop.noted(run_id) == "failed"
    assert quick.engine.stored(outcome).state == shop.noted(run_id) == "completed"


def test_while_the_store_is_away_the_outcome_waits(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id, hand = id_of(work.delay("a")), shop.hand()
    outcome = hand.executed(hand.claim())
    assert hand.engine.must_store

    def away(*_: Any) -> Any:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(type(shop.backend.store), "create", away)
        with pytest.raises(StoreUnavailable):
            hand.engine.stored(outcome)
        assert hand.engine.must_store
    assert hand.tell(hand.engine.stored(outcome)) == []
    assert not hand.engine.must_store
    assert (shop.noted(run_id), executed) == ("completed", ["a"])


def test_a_retry_is_no_end(shop: Shop) -> None:
    run_id, hand = id_of(retried.delay("a", "fails once")), shop.hand()
    assert hand.work(1) == 1
    assert shop.stored() == ([run_id], [])
    assert not hand.engine.must_store
    assert hand.work() == 1
    assert (executed, shop.noted(run_id)) == (["a", "a"], "completed")


def test_one_whose_process_dies_too_often_ends_by_its_next_claim(shop: Shop) -> None:
    run_id, hand = id_of(work.delay("a")), shop.hand()
    for _ in range(shop.settings.max_crashes):
        assert not hand.session.lane_died(0, hand.claim().run_id)
    assert shop.state(run_id) == "ready"
    assert hand.work() == 1
    assert (executed, shop.state(run_id), shop.noted(run_id)) == ([], "crashed", "crashed")


def test_one_that_nobody_serves_by_that_name_any_more(shop: Shop) -> None:
    run_id, hand = id_of(work.delay("a")), shop.hand()
    hand.engine._specs = {}  # type: ignore[misc]
    assert hand.work() == 1
    assert (shop.state(run_id), shop.noted(run_id)) == ("crashed", "crashed")


def test_a_note_that_is_not_ours_is_no_end_and_the_run_is_not_executed(shop: Shop) -> None:
    run_id, hand = id_of(work.delay("a")), shop.hand()
    shop.backend.store.put(FOLDER + run_id, b"written by another program")
    hand.claim()
    hand.die()
    assert shop.hand().work() == 1
    assert (executed, shop.state(run_id)) == ([], "crashed")
    assert "cannot be read" in TaskRuns(shop.backend).view(run_id)[1]["message"]


def test_a_person_has_it_run_once_more(shop: Shop) -> None:
    run_id, hand = id_of(work.delay("a", "fails once")), shop.hand()
    hand.work()
    assert shop.noted(run_id) == "failed"
    TaskRuns(shop.backend).retry(run_id)
    claim = hand.claim()
    assert claim.stored is not None
    outcome = hand.execute(claim)
    assert hand.tell(outcome) == []
    assert (executed, shop.noted(run_id), shop.state(run_id)) == (["a", "a"], "completed", "completed")
    assert shop.stored() == ([], [run_id])


def test_once_more_and_then_redis_is_lost(shop: Shop) -> None:
    run_id = id_of(work.delay("a", "fails once"))
    shop.hand().work()
    TaskRuns(shop.backend).retry(run_id)
    shop.lose_redis()
    assert shop.rebuild() == {Fate.SUBMITTED: 1}
    shop.hand().work()
    assert (executed, shop.noted(run_id)) == (["a", "a"], "completed")


def test_one_whose_submission_is_gone_is_not_run_once_more(shop: Shop) -> None:
    run_id = id_of(work.delay("a", "fails"))
    shop.hand().work()
    submissions.remove(shop.backend, run_id)
    with pytest.raises(NotPossible, match="is not in the store any more; submit it anew"):
        TaskRuns(shop.backend).retry(run_id)
    assert shop.state(run_id) == "failed"


def test_a_cancel_of_what_waits_is_noted(shop: Shop) -> None:
    run_id = id_of(work.apply_async(("a",), countdown=3600))
    assert TaskRuns(shop.backend).cancel(run_id) == "Cancelled"
    assert shop.noted(run_id) == "cancelled"
    TaskRuns(shop.backend).retry(run_id)
    shop.lose_redis()
    assert shop.rebuild() == {Fate.SUBMITTED: 1}, "a person has taken the cancel back"


def test_a_cancel_that_the_store_does_not_take_cancels_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = id_of(work.delay("a"))

    def away(*_: Any) -> Any:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(type(shop.backend.store), "replace", away)
        with pytest.raises(StoreUnavailable):
            TaskRuns(shop.backend).cancel(run_id)
    assert shop.state(run_id) == "ready"


@pytest.mark.parametrize("subject", [work, kept, alike])
def test_what_a_person_deletes_leaves_nothing(shop: Shop, subject: Any) -> None:
    runs = [id_of(subject.delay("a")), id_of(subject.delay("b", "fails"))]
    shop.hand().work()
    for run_id in runs:
        TaskRuns(shop.backend).delete(run_id)
    assert shop.stored() == ([], [])
    shop.lose_redis()
    assert shop.rebuild() == {}


def test_what_has_not_ended_is_not_deleted_for_the_loss_of_redis(shop: Shop) -> None:
    run_id = id_of(work.delay("a"))
    shop.lose_redis()
    with pytest.raises(Exception, match=str(ids.to_uuid(run_id))):
        TaskRuns(shop.backend).delete(run_id)
    assert shop.stored() == ([run_id], [])


def test_an_end_that_only_the_queue_tells_of_is_noted_by_a_rebuild(shop: Shop) -> None:
    """The worker had to go while the store was away, so the outcome went to the queue whole."""
    done, failed = (id_of(work.delay(tag, then)) for tag, then in (("a", ""), ("b", "fails")))
    hand = shop.hand()
    for _ in range(2):
        outcome: Outcome = hand.executed(hand.claim())
        hand.engine._ends.forget()
        assert hand.tell(outcome) == []
    assert shop.stored() == ([done, failed], [])
    assert shop.rebuild(dry_run=True) == {Fate.KNOWN: 2}
    assert shop.stored() == ([done, failed], [])
    shop.rebuild()
    assert shop.stored() == ([failed], [done, failed])
    shop.lose_redis()
    assert shop.rebuild() == {Fate.ENDED: 2}
    assert shop.hand().work() == 0
