"""After Redis was lost: what had not ended runs, what had is not executed again, all else is as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.integration.durability.makers import (
    LARGE,
    Shop,
    alike,
    executed,
    id_of,
    kept,
    once,
    retried,
    work,
)

from kapstan.errors import CancelledRun, RunFailed
from kapstan.futures import Future
from kapstan.runs import submissions
from kapstan.runs.rebuild import Fate
from kapstan.runs.retention import DAY, Ages, Kept
from kapstan.runs.sweep import Sweep
from kapstan.runs.task_runs import TaskRuns
from kapstan.tasks import Task

Loss = Callable[[Shop], None]
LOSSES = pytest.mark.parametrize("lose", [Shop.lose_redis, Shop.flush], ids=["a new server", "emptied"])


def submitted(shop: Shop) -> None: ...


def claimed(shop: Shop) -> None:
    shop.hand().claim()


def given_back(shop: Shop) -> None:
    hand = shop.hand()
    hand.claim()
    hand.die()


def begun(shop: Shop) -> None:
    hand = shop.hand()
    hand.executed(hand.claim())


def noted(shop: Shop) -> None:
    hand = shop.hand()
    hand.execute(hand.claim())


def told(shop: Shop) -> None:
    shop.hand().work()


@LOSSES
@pytest.mark.parametrize(
    ("step", "fate", "executions"),
    [
        (submitted, Fate.SUBMITTED, 1),
        (claimed, Fate.SUBMITTED, 1),
        (given_back, Fate.SUBMITTED, 1),
        (begun, Fate.SUBMITTED, 2),  # of class pure: its code may run again
        (noted, Fate.ENDED, 1),
        (told, Fate.ENDED, 1),
    ],
)
def test_redis_is_lost_at_each_step(shop: Shop, step: Loss, lose: Loss, fate: Fate, executions: int) -> None:
    run_id = id_of(work.delay("a"))
    step(shop)
    lose(shop)
    assert shop.record(run_id) is None, "the fault did not bite"
    assert shop.rebuild(dry_run=True) == {fate: 1}
    assert shop.record(run_id) is None, "a dry run changes nothing"
    assert shop.rebuild() == {fate: 1}
    assert shop.rebuild() == ({Fate.KNOWN: 1} if fate is Fate.SUBMITTED else {})
    shop.hand().work()
    assert (executed, Future(run_id).result(timeout=10)) == (["a"] * executions, "a")
    assert shop.rebuild() == {}
    assert shop.stored() == ([], [run_id])


def test_a_worker_that_goes_on_over_the_loss_is_the_first_to_end_it(shop: Shop) -> None:
    run_id, slow = id_of(work.delay("a")), shop.hand()
    outcome = slow.executed(slow.claim())
    shop.flush()
    shop.rebuild()
    slow.engine.stored(outcome)
    assert shop.hand().work() == 1
    assert (executed, shop.state(run_id)) == (["a"], "completed")


def test_ends_are_shown_as_they_were(shop: Shop) -> None:
    large, failed = work.delay("a", "large"), work.delay("b", "fails")
    shop.hand().work()
    before = [shop.record(id_of(each)) for each in (large, failed)]
    shop.lose_redis()
    assert shop.rebuild() == {Fate.ENDED: 2}
    assert [shop.record(id_of(each)) for each in (large, failed)] == before
    assert large.result(timeout=10) == "a" * LARGE
    with pytest.raises(ValueError, match="b"):
        failed.result(timeout=10)
    TaskRuns(shop.backend).retry(id_of(failed))
    assert shop.hand().work() == 1
    assert executed == ["a", "b", "b"]


def test_ends_of_long_ago_are_not_shown(shop: Shop) -> None:
    run_ids = [id_of(work.delay("a")), id_of(work.delay("b", "fails"))]
    shop.hand().work()
    shop.lose_redis()
    later = shop.backend.store_time() + shop.settings.result_ttl_seconds + 5
    assert shop.rebuild(now=later) == {Fate.OVER: 1}, "of what completed no submission is left"
    assert [shop.state(run_id) for run_id in run_ids] == ["unknown", "unknown"]


@pytest.mark.parametrize("key", [None, "k"])
def test_a_persisted_result_is_the_end(shop: Shop, key: str | None) -> None:
    """Its worker died behind that, before the note. Of a key only a worker knows whether it is that of this request."""
    run_id, hand = id_of(kept.apply_async(("a",), idempotency_key=key)), shop.hand()
    hand.engine._persisting.settled(hand.executed(hand.claim()))
    shop.lose_redis()
    assert shop.rebuild() == {Fate.SUBMITTED if key else Fate.ENDED: 1}
    assert shop.hand().work() == (1 if key else 0)
    assert (Future(run_id).result(timeout=10), executed) == ("a", ["a"])
    assert shop.stored() == ([], [run_id])


@pytest.mark.parametrize("subject", [once, alike])
def test_a_committed_register_is_the_end(shop: Shop, subject: Task[..., Any]) -> None:
    """Its worker died behind the commit, before the note."""
    run_id, hand = id_of(subject.delay("a")), shop.hand()
    hand.executed(hand.claim())
    shop.lose_redis()
    assert shop.rebuild() == {Fate.DOUBT if subject is once else Fate.SUBMITTED: 1}
    assert shop.hand().work() == 1
    assert (Future(run_id).result(timeout=10), executed) == ("a", ["a"])


def test_one_in_doubt_is_not_ended_by_a_cancel(shop: Shop) -> None:
    run_id, hand = id_of(once.delay("a")), shop.hand()
    hand.executed(hand.claim())
    shop.lose_redis()
    shop.rebuild()
    assert TaskRuns(shop.backend).cancel(run_id) == "Scheduled"
    assert shop.hand().work() == 1
    assert shop.state(run_id) == "completed"


@pytest.mark.parametrize("begins", [True, False])
def test_one_in_doubt_that_was_cancelled_before_the_loss(shop: Shop, begins: bool) -> None:
    run_id = id_of(once.delay("a"))
    if begins:
        hand = shop.hand()
        hand.executed(hand.claim())
    submissions.note_cancel(shop.backend, run_id)  # the client died behind that, or Redis was gone
    shop.lose_redis()
    assert shop.rebuild() == {Fate.DOUBT: 1}
    assert shop.hand().work() == 1
    state = "completed" if begins else "cancelled"
    assert (shop.state(run_id), shop.noted(run_id), executed) == (state, state, ["a"] if begins else [])


def test_what_is_waited_for_comes_first(shop: Shop) -> None:
    done, open_ = work.delay("done"), work.delay("open")
    shop.hand().work(1)
    last = work.apply_async(("last",), wait_for=[work.apply_async(("middle",), wait_for=[done, open_])])
    shop.lose_redis()
    assert shop.rebuild() == {Fate.ENDED: 1, Fate.SUBMITTED: 3}
    hand = shop.hand()
    while hand.work() or shop.state(id_of(last)) != "completed":
        hand.session.renew()  # makes due what waited
    assert executed == ["done", "open", "middle", "last"]


def test_one_that_completed_long_ago_counts_as_completed(shop: Shop) -> None:
    done = work.delay("done")
    shop.hand().work()
    last = work.apply_async(("last",), wait_for=[done], countdown=3600)
    shop.lose_redis()
    later = shop.backend.store_time() + shop.settings.result_ttl_seconds + 5
    assert shop.rebuild(now=later) == {Fate.ENDED: 1, Fate.SUBMITTED: 1}
    assert shop.hand().work() == 1
    assert last.result(timeout=10) == "last"


def test_one_that_waits_for_what_is_lost_for_good_fails_and_names_it(shop: Shop) -> None:
    lost = work.with_options(durability="redis").delay("lost")
    last = work.apply_async(("last",), wait_for=[lost])
    shop.lose_redis()
    assert shop.rebuild() == {Fate.SUBMITTED: 1}
    assert shop.hand().work() == 1
    with pytest.raises(RunFailed, match=str(lost.task_run_id)):
        last.result(timeout=10)
    assert executed == []


def test_a_long_chain_of_runs(shop: Shop) -> None:
    futures = [work.delay("0")]
    for number in range(1, 300):
        futures.append(work.apply_async((str(number),), wait_for=[futures[-1]], idempotency_key=str(number)))
    shop.lose_redis()
    assert shop.rebuild() == {Fate.SUBMITTED: 300}
    assert shop.backend.queue.depth([work.task_key])[:2] == (1, 299)


@pytest.mark.parametrize("passes", [0, 1800, 7200])
def test_a_delayed_run_keeps_its_moment(shop: Shop, passes: int) -> None:
    run_id = id_of(work.apply_async(("a",), countdown=3600))
    shop.lose_redis()
    now = shop.backend.store_time()
    assert shop.rebuild(now=now + passes) == {Fate.SUBMITTED: 1}
    listed = shop.backend.background_runs.look(run_id)
    assert listed is not None
    if passes > 3600:
        assert listed.record.state == "ready"
    else:
        assert listed.due == pytest.approx(now + 3600 - passes, abs=5)


def test_a_deadline_that_passes_while_a_long_rebuild_is_at_work_counts(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, over = (id_of(work.apply_async((tag,), expires=60)) for tag in ("a", "b"))
    shop.lose_redis()
    now = shop.backend.store_time()
    monkeypatch.setattr("kapstan.runs.rebuild._BATCH", 1)
    passed = iter((0, 100))
    monkeypatch.setattr(shop.backend, "store_time", lambda: now)

    def pass_time() -> bool:
        later = now + next(passed)
        monkeypatch.setattr(shop.backend, "store_time", lambda: later)
        return False

    assert shop.rebuild(stop=pass_time) == {Fate.SUBMITTED: 1, Fate.EXPIRED: 1}
    assert (shop.state(first), shop.state(over)) == ("ready", "cancelled")


def test_one_that_is_over_its_deadline_has_expired(shop: Shop) -> None:
    over, later = (work.apply_async((str(expires),), expires=expires) for expires in (60, 3600))
    shop.lose_redis()
    assert shop.rebuild(now=shop.backend.store_time() + 100) == {Fate.EXPIRED: 1, Fate.SUBMITTED: 1}
    assert over.state.name == "Expired"
    with pytest.raises(CancelledRun, match="not begun within the time"):
        over.result(timeout=10)
    assert shop.hand().work() == 1
    assert (executed, later.result(timeout=10)) == (["3600"], "3600")


def test_one_in_doubt_that_is_over_its_deadline_is_what_its_register_says(shop: Shop) -> None:
    done, not_begun = (once.apply_async((tag,), expires=60) for tag in ("a", "b"))
    hand = shop.hand()
    hand.executed(hand.claim())
    shop.lose_redis()
    assert shop.rebuild(now=shop.backend.store_time() + 100) == {Fate.DOUBT: 2}
    assert shop.hand().work() == 2
    assert [shop.state(id_of(each)) for each in (done, not_begun)] == ["completed", "cancelled"]
    assert executed == ["a"]


@pytest.mark.parametrize("claim", [False, True], ids=["waits", "runs"])
def test_one_that_was_cancelled_stays_cancelled(shop: Shop, claim: bool) -> None:
    run_id = id_of(work.delay("a"))
    if claim:
        shop.hand().claim()
    TaskRuns(shop.backend).cancel(run_id)
    shop.lose_redis()
    assert shop.rebuild() == {Fate.CANCELLED if claim else Fate.ENDED: 1}
    assert (shop.state(run_id), shop.hand().work(), executed) == ("cancelled", 0, [])
    TaskRuns(shop.backend).retry(run_id)
    assert shop.hand().work() == 1
    assert executed == ["a"]


def test_queue_priority_and_group_are_as_before(shop: Shop) -> None:
    run_id = id_of(work.apply_async(("a",), queue="slow", priority=5, group="g"))
    before = shop.record(run_id)
    shop.lose_redis()
    shop.rebuild()
    assert shop.record(run_id) == before


def test_attempts_count_anew_and_retries_go_on(shop: Shop) -> None:
    run_id, hand = id_of(retried.delay("a", "fails")), shop.hand()
    assert hand.work(2) == 2
    shop.lose_redis()
    assert shop.rebuild() == {Fate.SUBMITTED: 1}
    assert shop.hand().work() == 3
    assert (len(executed), shop.state(run_id)) == (5, "failed")


def test_retention_leaves_what_a_rebuild_needs(shop: Shop) -> None:
    large = "x" * LARGE
    open_, done, failed = work.delay(large), work.delay("done", "large"), work.delay("b", "fails")
    hand = shop.hand()
    claim = hand.claim()
    assert hand.work() == 2
    shop.lose_redis()
    later = shop.backend.store_time() + 40 * DAY
    report = Sweep(shop.backend, Ages(30 * DAY), None, now=later).run()
    assert report.items == {"ended": 2, "submissions": 1, "value": 1}, "two ends, and the result of one"
    assert report.kept == {Kept.OPEN: 1, Kept.QUEUED: 1}
    assert shop.stored() == ([id_of(open_)], [])
    assert shop.rebuild() == {Fate.SUBMITTED: 1}
    assert shop.hand().work() == 1
    assert open_.result(timeout=10) == large
    assert [shop.state(id_of(each)) for each in (done, failed)] == ["unknown", "unknown"]
    assert claim.run_id == id_of(open_)


def test_retention_leaves_what_is_young_or_in_the_queue(shop: Shop) -> None:
    run_id = id_of(work.delay("b", "fails"))
    shop.hand().work()
    now = shop.backend.store_time()
    assert (
        not Sweep(shop.backend, Ages(1.0, grace=0.0), None, now=now + shop.settings.result_ttl_seconds / 2).run().items
    )
    later = now + 40 * DAY
    assert Sweep(shop.backend, Ages(30 * DAY), None, now=later).run().kept == {Kept.QUEUED: 1}
    assert shop.stored() == ([run_id], [run_id])
    TaskRuns(shop.backend).retry(run_id)
    shop.lose_redis()
    assert Sweep(shop.backend, Ages(30 * DAY), None, now=later).run().kept == {Kept.OPEN: 1}
    assert shop.stored()[0] == [run_id]
