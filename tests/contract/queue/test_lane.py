"""Claiming and finishing: one holder, growing tokens, LOST for the late, recognition of one's own commit."""

from __future__ import annotations

import threading

import pytest
from tests.contract.queue.makers import TASK, done, run

from kapstan.ids import Token
from kapstan.ports import Depth, Outcome
from kapstan.queue.redis import RedisQueue


def test_a_claim_carries_the_run_and_its_first_token(queue: RedisQueue, hire) -> None:
    submission = run(effect="i")
    queue.submit(submission)
    (claim,) = hire().lane.step([], 1).claims
    assert (claim.run_id, claim.task, claim.token) == (submission.run_id, TASK, Token(1, 1))
    assert (claim.attempt, claim.crashes, claim.effect, claim.envelope) == (1, 0, "i", b"arguments")
    assert queue.record(submission.run_id).state == "running"
    assert queue.depth([TASK]) == Depth(0, 0, 1, None)


@pytest.mark.parametrize("state", ["completed", "failed", "crashed", "cancelled"])
def test_an_outcome_ends_the_run_and_the_same_step_claims_the_next(queue: RedisQueue, hire, state: str) -> None:
    first, second = run(), run()
    queue.submit_many([first, second])
    lane = hire().lane
    (claim,) = lane.step([], 1).claims
    stepped = lane.step([done(claim, b"outcome", state)], 1)
    assert stepped.lost == []
    assert [each.run_id for each in stepped.claims] == [second.run_id]
    record = queue.record(first.run_id)
    assert (record.state, record.envelope, record.token) == (state, b"outcome", claim.token)


def test_a_repeated_outcome_is_recognised_and_changes_nothing(queue: RedisQueue, hire) -> None:
    queue.submit(run())
    lane = hire().lane
    (claim,) = lane.step([], 1).claims
    assert lane.step([done(claim)], 0).lost == []
    assert lane.step([done(claim, b"said twice")], 0).lost == []
    assert queue.record(claim.run_id).envelope == b"result"


def test_a_late_outcome_is_lost_and_dropped(queue: RedisQueue, hire) -> None:
    queue.submit(run())
    late, prompt = hire(), hire()
    (old,) = late.lane.step([], 1).claims
    assert queue.expire_session(late.session.name) == [late.session.name]
    (new,) = prompt.lane.step([], 1).claims
    assert new.run_id == old.run_id
    assert new.token > old.token
    assert late.lane.step([done(old, b"late")], 0).lost == [old.run_id]
    assert prompt.lane.step([done(new, b"prompt")], 0).lost == []
    assert late.lane.step([done(old, b"later")], 0).lost == [old.run_id]
    assert queue.record(old.run_id).envelope == b"prompt"


def test_a_token_of_an_older_claim_is_lost_in_the_same_session(queue: RedisQueue, hire) -> None:
    queue.submit(run())
    lane = hire().lane
    (old,) = lane.step([], 1).claims
    assert lane.give_back([]) == [old.run_id]
    (new,) = lane.step([], 1).claims
    assert lane.step([done(old)], 0).lost == [old.run_id]
    assert lane.step([done(new)], 0).lost == []


def test_an_outcome_with_an_invented_token_is_lost(queue: RedisQueue, hire) -> None:
    queue.submit(run())
    lane = hire().lane
    (claim,) = lane.step([], 1).claims
    assert lane.step([Outcome(claim.run_id, Token(9, 9), "completed", b"")], 0).lost == [claim.run_id]
    assert queue.record(claim.run_id).state == "running"


def test_pure_runs_come_in_batches_and_any_other_alone(queue: RedisQueue, hire) -> None:
    kinds = ["p", "p", "i", "p", "a", "t", "p", "p"]
    queue.submit_many([run(effect=kind) for kind in kinds])
    lane = hire().lane
    batches: list[str] = []
    while claims := lane.step([], 10).claims:
        batches.append("".join(claim.effect for claim in claims))
        lane.step([done(claim) for claim in claims], 0)
    assert batches == ["pp", "i", "p", "a", "t", "pp"]


def test_what_a_lane_asks_for_is_all_it_gets(queue: RedisQueue, hire) -> None:
    queue.submit_many([run() for _ in range(5)])
    lane = hire().lane
    assert len(lane.step([], 0).claims) == 0
    assert len(lane.step([], 3).claims) == 3
    assert len(lane.step([], 3).claims) == 2


def test_no_served_task_starves_another(queue: RedisQueue, hire) -> None:
    tasks = ("a:a", "b:b", "c:c")
    queue.submit_many([run(task) for task in tasks for _ in range(10)])
    lane = hire(tasks).lane
    assert sorted(claim.task for _ in range(3) for claim in lane.step([], 1).claims) == sorted(tasks)


def test_tasks_share_a_claim_by_how_many_of_each_fill_it(queue: RedisQueue, hire) -> None:
    queue.submit_many([run("a:a"), run("a:a"), *(run("b:b") for _ in range(20)), run("c:c")])
    lane = hire(("a:a", "b:b", "c:c")).lane
    wanted = {"a:a": 4, "b:b": 8}  # c:c is not known yet
    tasks = [claim.task for claim in lane.step([], wanted).claims]
    assert tasks == ["a:a"] * 2 + ["b:b"] * 4, "half of it each, and no room for a whole run of the third"
    tasks = [claim.task for claim in lane.step([], wanted).claims]
    assert tasks == ["b:b"] * 8, "asked first this time, it fills the claim"
    assert [claim.task for claim in lane.step([], wanted).claims] == ["c:c"]


def test_two_steps_may_be_in_flight(queue: RedisQueue, hire) -> None:
    submissions = [run() for _ in range(6)]
    queue.submit_many(submissions)
    lane = hire().lane
    lane.send_step([], 2)
    lane.send_step([], 2)
    first = lane.read_step().claims
    lane.send_step([done(claim) for claim in first], 2)
    claims = [*first, *lane.read_step().claims, *lane.read_step().claims]
    assert [claim.run_id for claim in claims] == [submission.run_id for submission in submissions]


def test_racing_workers_share_the_runs_and_commit_each_once(queue: RedisQueue, hire) -> None:
    submissions = [run() for _ in range(600)]
    queue.submit_many(submissions)
    claimed: list[list[str]] = [[], [], []]

    def work(index: int) -> None:
        lane = hire().lane
        stepped = lane.step([], 4)
        while stepped.claims:
            claimed[index] += [claim.run_id for claim in stepped.claims]
            stepped = lane.step([done(claim) for claim in stepped.claims], 4)
            assert stepped.lost == []

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = [run_id for each in claimed for run_id in each]
    assert sorted(together) == sorted(submission.run_id for submission in submissions)
    assert {record.state for record in queue.records(together)} == {"completed"}


class TestGiveBack:
    def test_returns_what_is_not_executing_to_the_front_and_unharmed(self, queue: RedisQueue, hire) -> None:
        submissions = [run() for _ in range(5)]
        queue.submit_many(submissions)
        slow, quick = hire(), hire()
        claims = slow.lane.step([], 4).claims
        back = slow.lane.give_back([claims[0].run_id])
        assert sorted(back) == [submission.run_id for submission in submissions[1:4]]
        taken = quick.lane.step([], 10).claims
        assert [claim.run_id for claim in taken] == [submission.run_id for submission in submissions[1:]]
        assert {(claim.attempt, claim.crashes) for claim in taken} == {(1, 0)}
        assert [claim.token.epoch for claim in taken] == [2, 2, 2, 1]
        assert slow.lane.step([done(claim) for claim in claims], 0).lost == [c.run_id for c in claims[1:]]

    def test_also_what_was_claimed_and_not_yet_read(self, queue: RedisQueue, hire) -> None:
        submissions = [run() for _ in range(3)]
        queue.submit_many(submissions)
        lane = hire().lane
        lane.send_step([], 1)
        (first,) = lane.read_step().claims
        lane.send_step([], 2)
        while queue.depth([TASK]).running < 3:  # the step is on its way on another connection
            continue
        assert lane.give_back([first.run_id]) == []
        assert queue.depth([TASK]).ready == 2
        assert lane.read_step().claims == []
        assert [claim.token.epoch for claim in lane.step([], 2).claims] == [2, 2]

    def test_hands_them_to_an_idle_lane(self, queue: RedisQueue, hire) -> None:
        queue.submit_many([run(), run()])
        busy, idle = hire(), hire()
        claims = busy.lane.step([], 2).claims
        assert idle.lane.step([], 1).claims == []
        busy.lane.give_back([claims[0].run_id])
        assert [claim.run_id for claim in idle.lane.wait(5.0)] == [claims[1].run_id]


class TestRetry:
    def test_starts_again_as_the_next_attempt(self, queue: RedisQueue, hire) -> None:
        queue.submit(run())
        lane = hire().lane
        (first,) = lane.step([], 1).claims
        assert lane.retry(first.run_id, first.token, 0.0)
        (second,) = lane.step([], 1).claims
        assert (second.run_id, second.attempt, second.crashes) == (first.run_id, 2, 0)
        assert second.token > first.token

    def test_frees_the_slot_until_it_is_due(self, queue: RedisQueue, hire) -> None:
        queue.submit(run())
        worker = hire()
        (claim,) = worker.lane.step([], 1).claims
        assert worker.lane.retry(claim.run_id, claim.token, 3600.0)
        assert queue.depth([TASK]) == Depth(0, 1, 0, None)
        assert worker.lane.step([], 1).claims == []
        assert 3590.0 < worker.session.renew().next_due <= 3600.0

    def test_of_a_run_that_somebody_else_has_is_lost(self, queue: RedisQueue, hire) -> None:
        queue.submit(run())
        worker, other = hire(), hire()
        (claim,) = worker.lane.step([], 1).claims
        worker.lane.give_back([])
        (taken,) = other.lane.step([], 1).claims
        assert not worker.lane.retry(claim.run_id, claim.token, 0.0)
        assert other.lane.step([done(taken)], 0).lost == []
