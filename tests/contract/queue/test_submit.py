"""Submitting: accepted once, whatever is repeated; what waits can be seen, cancelled and is started in order."""

from __future__ import annotations

import re

import pytest
from tests.contract.queue.makers import TASK, done, run

from kapstan.errors import ConfigurationError, IdempotencyConflict
from kapstan.ids import Token, new_id
from kapstan.ports import Depth, RunRecord, Submitted
from kapstan.queue.redis import RedisQueue


def test_a_submitted_run_is_ready_and_its_record_says_everything(queue: RedisQueue) -> None:
    submission = run(envelope=b"\x00\xff any bytes \x00")
    assert queue.submit(submission) == Submitted("ready", duplicate=False)
    assert queue.record(submission.run_id) == RunRecord(
        submission.run_id, TASK, "default", "ready", Token(0, 0), 1, 0, submission.envelope
    )
    assert queue.record(new_id()) is None


def test_the_same_submit_again_is_a_duplicate_and_queues_nothing(queue: RedisQueue) -> None:
    submission = run()
    queue.submit(submission)
    assert queue.submit(submission) == Submitted("ready", duplicate=True)
    assert queue.depth([TASK]).ready == 1


def test_a_duplicate_of_a_finished_run_answers_its_state(queue: RedisQueue, hire) -> None:
    submission = run()
    queue.submit(submission)
    lane = hire().lane
    lane.step([done(lane.step([], 1).claims[0])], 0)
    assert queue.submit(submission) == Submitted("completed", duplicate=True)


def test_one_id_with_two_fingerprints_is_a_conflict(queue: RedisQueue) -> None:
    submission = run()
    queue.submit(submission)
    with pytest.raises(IdempotencyConflict, match=submission.run_id):
        queue.submit(run(run_id=submission.run_id, fingerprint="other-inputs"))
    assert queue.record(submission.run_id).envelope == submission.envelope


def test_many_are_accepted_in_order_and_duplicates_are_marked(queue: RedisQueue, hire) -> None:
    first = run()
    queue.submit(first)
    many = [first, *(run(envelope=b"%d" % index) for index in range(700))]
    answers = queue.submit_many(many)
    assert answers[0] == Submitted("ready", duplicate=True)
    assert answers[1:] == [Submitted("ready", duplicate=False)] * 700
    lane = hire().lane
    claims = [claim for _ in range(3) for claim in lane.step([], 256).claims]
    assert [claim.run_id for claim in claims] == [submission.run_id for submission in many]


def test_a_conflict_among_many_names_itself_and_the_others_are_accepted(queue: RedisQueue) -> None:
    first = run()
    queue.submit(first)
    with pytest.raises(IdempotencyConflict, match=first.run_id):
        queue.submit_many([run(), run(run_id=first.run_id, fingerprint="other-inputs"), run()])
    assert queue.depth([TASK]).ready == 3


def test_tasks_and_queues_are_kept_apart(queue: RedisQueue, hire) -> None:
    queue.submit_many([run(), run("shop.tasks:other"), run(queue="slow")])
    assert queue.depth([TASK]) == Depth(1, 0, 0, 0.0)
    assert queue.depth([TASK, "shop.tasks:other"]).ready == 2
    assert queue.depth([(TASK, "slow")]).ready == 1
    assert [claim.task for claim in hire().lane.step([], 10).claims] == [TASK]
    session = queue.open_session("slow-shop", [(TASK, "slow")], 1)
    lane = queue.open_lane(session.name, 0, [(TASK, "slow")])
    assert [claim.task for claim in lane.step([], 10).claims] == [TASK]
    lane.close()
    session.close()


def test_recent_runs_come_newest_first(queue: RedisQueue) -> None:
    submissions = [run() for _ in range(5)]
    queue.submit_many(submissions)
    assert [record.run_id for record in queue.runs(3)] == [s.run_id for s in reversed(submissions[2:])]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"fingerprint": "short"}, "fingerprint='short'"),
        ({"effect": "x"}, "effect='x'"),
        ({"queue": "a|b"}, "queue='a|b'"),
        ({"task": "a|b"}, "task='a|b'"),
        ({"delay": -1.0}, "delay=-1.0"),
    ],
)
def test_a_field_that_does_not_fit_is_refused_by_name(queue: RedisQueue, fields, named: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(named)):
        queue.submit(run(**{"task": TASK, **fields}))


class TestCancel:
    def test_of_a_ready_run_ends_it_at_once(self, queue: RedisQueue, hire) -> None:
        submission, other = run(), run()
        queue.submit_many([submission, other])
        assert queue.cancel(submission.run_id) == "ready"
        assert queue.record(submission.run_id).state == "cancelled"
        assert [claim.run_id for claim in hire().lane.step([], 10).claims] == [other.run_id]

    def test_of_a_delayed_run_ends_it_at_once(self, queue: RedisQueue) -> None:
        submission = run(delay=3600.0)
        assert queue.submit(submission) == Submitted("delayed", duplicate=False)
        assert queue.cancel(submission.run_id) == "delayed"
        assert queue.record(submission.run_id).state == "cancelled"
        assert queue.depth([TASK]) == Depth(0, 0, 0, None)

    def test_of_a_running_run_is_told_to_its_supervisor_until_the_run_ends(self, queue: RedisQueue, hire) -> None:
        submission = run()
        queue.submit(submission)
        worker = hire()
        claim = worker.lane.step([], 1).claims[0]
        assert queue.cancel(submission.run_id) == "running"
        assert worker.session.wait(5.0)
        assert worker.session.renew().cancelled == [submission.run_id]
        assert worker.session.renew().cancelled == [submission.run_id]
        assert worker.lane.step([done(claim, state="cancelled")], 0).lost == []
        assert worker.session.renew().cancelled == []
        assert queue.record(submission.run_id).state == "cancelled"

    @pytest.mark.parametrize("way", ["give_back", "retry", "expire", "lane_died"])
    def test_of_a_running_run_holds_when_its_worker_lets_it_go(self, queue: RedisQueue, hire, way: str) -> None:
        submission = run()
        queue.submit(submission)
        worker = hire()
        claim = worker.lane.step([], 1).claims[0]
        queue.cancel(submission.run_id)
        match way:
            case "give_back":
                worker.lane.give_back([])
            case "retry":
                assert worker.lane.retry(claim.run_id, claim.token, 0.0)
            case "expire":
                queue.expire_session(worker.session.name)
            case _:
                worker.session.lane_died(0, claim.run_id)
        assert queue.record(submission.run_id).state == "cancelled"

    def test_of_a_finished_or_unknown_run_changes_nothing(self, queue: RedisQueue, hire) -> None:
        submission = run()
        queue.submit(submission)
        lane = hire().lane
        lane.step([done(lane.step([], 1).claims[0])], 0)
        assert queue.cancel(submission.run_id) == "completed"
        assert queue.record(submission.run_id).envelope == b"result"
        assert queue.cancel(new_id()) is None
