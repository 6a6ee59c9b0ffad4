"""A claim stands in its session's hash alone, and a lane commits without reading: nobody else notices either."""

from __future__ import annotations

import threading

import pytest
from tests.contract.queue.makers import TASK, done, run
from tests.servers.redis import RedisServer

from kapstan.ids import RunId, Token
from kapstan.ports import BackgroundFilter, Change
from kapstan.queue.background_runs import RedisBackgroundRuns
from kapstan.queue.redis import RedisQueue
from kapstan.queue.server_clock import ServerClock


def raw(queue: RedisQueue, server: RedisServer, run_id: RunId) -> bytes:
    with server.client() as client:
        return client.get(f"{queue.prefix}t:{run_id}")


def test_a_claim_does_not_write_the_record(queue: RedisQueue, hire, shared_server: RedisServer) -> None:
    submissions = [run() for _ in range(3)]
    queue.submit_many(submissions)
    before = [raw(queue, shared_server, submission.run_id) for submission in submissions]
    claims = hire().lane.step([], 2).claims
    assert [raw(queue, shared_server, submission.run_id) for submission in submissions] == before
    records = queue.records([submission.run_id for submission in submissions])
    assert [record.state for record in records] == ["running", "running", "ready"]
    assert [record.token for record in records[:2]] == [claim.token for claim in claims]
    assert all(record.started is not None and record.started >= records[2].since for record in records[:2])
    assert queue.submit(submissions[0]) == ("running", True)


@pytest.mark.parametrize(("state", "places"), [("running", [0, 1]), ("ready", [2])])
def test_lists_tell_what_is_held_from_what_waits(queue: RedisQueue, hire, state, places: list[int]) -> None:
    submissions = [run() for _ in range(3)]
    queue.submit_many(submissions)
    worker = hire()
    worker.lane.step([], 2)
    page = RedisBackgroundRuns(queue).page(BackgroundFilter(states=frozenset({state})), 10)
    assert {each.record.run_id for each in page.runs} == {submissions[place].run_id for place in places}
    assert {each.session for each in page.runs} == ({worker.session.name} if state == "running" else {""})


@pytest.mark.parametrize("want", [1, 2, 9])
@pytest.mark.parametrize("anew", ["rerun", "submitted"])
def test_a_run_that_stands_twice_in_its_list_is_claimed_once(queue: RedisQueue, hire, want: int, anew: str) -> None:
    """Cancelled in the middle of the list it stays there; begun anew it stands there once more."""
    submissions = [run() for _ in range(5)]
    queue.submit_many(submissions)
    twice = submissions[2]
    runs = RedisBackgroundRuns(queue)
    assert queue.cancel(twice.run_id) == "ready"
    if anew == "rerun":
        assert runs.rerun(twice.run_id) == (Change.DONE, "cancelled")
    else:
        assert runs.delete(twice.run_id) == (Change.DONE, "cancelled")
        queue.submit(twice)
    one, other = hire().lane, hire().lane
    tokens: dict[RunId, Token] = {}
    claimed: list[RunId] = []
    while claims := one.step([], want).claims + other.step([], want).claims:
        claimed += [claim.run_id for claim in claims]
        tokens |= {claim.run_id: claim.token for claim in claims}
    for record in queue.records(claimed):
        assert (record.state, record.token) == ("running", tokens[record.run_id])
    assert sorted(claimed) == sorted(submission.run_id for submission in submissions)


def test_what_stood_twice_can_come_back_and_is_claimed_again(queue: RedisQueue, hire) -> None:
    submissions = [run() for _ in range(3)]
    queue.submit_many(submissions)
    queue.cancel(submissions[1].run_id)
    RedisBackgroundRuns(queue).rerun(submissions[1].run_id)
    first = hire()
    assert len(first.lane.step([], 9).claims) == 3
    assert sorted(queue.expire_session(first.session.name)) == [first.session.name]
    second = hire()
    claims = second.lane.step([], 9).claims
    assert sorted(claim.run_id for claim in claims) == sorted(submission.run_id for submission in submissions)
    assert second.lane.step([done(claim) for claim in claims], 0).lost == []


def test_a_lane_and_the_queue_write_the_same_record(queue: RedisQueue, hire, shared_server: RedisServer) -> None:
    """The lane that claimed sends the record of the end; if it has forgotten the claim, the queue makes it."""
    known, forgotten = run(), run(run_id=None)
    queue.submit_many([known, forgotten])
    worker = hire()
    claims = worker.lane.step([], 2).claims
    worker.lane._held.pop(forgotten.run_id)
    assert worker.lane.step([done(claim) for claim in claims], 0).lost == []
    ends = [raw(queue, shared_server, submission.run_id) for submission in (known, forgotten)]
    assert ends[0][:16] == ends[1][:16]
    assert ends[0][26:] == ends[1][26:], "all but when it ended"
    for record in queue.records([known.run_id, forgotten.run_id]):
        assert (record.state, record.envelope, record.session) == ("completed", b"result", worker.session.name)
        assert record.started is not None
        assert record.started <= record.since


def test_the_end_of_a_run_that_came_back_twice_names_its_last_start(queue: RedisQueue, hire) -> None:
    queue.submit(run())
    worker = hire()
    for _ in range(2):
        worker.lane.step([], 1)
        worker.lane.give_back([])
    (claim,) = worker.lane.step([], 1).claims
    started = queue.record(claim.run_id).started
    worker.lane.step([done(claim)], 0)
    assert queue.record(claim.run_id).started == started
    assert queue.record(claim.run_id).token == claim.token


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
def test_who_waits_is_forgotten_with_the_end(queue: RedisQueue, hire, open_queue, shared_server, state) -> None:
    submission = run()
    queue.submit_many([submission, run()])
    lane = hire().lane
    watchers = [open_queue(shared_server, namespace=queue.settings.namespace) for _ in range(2)]
    told: list[set[RunId]] = []
    threads = [
        threading.Thread(target=lambda each=each: told.append(each.wait([submission.run_id], 20.0)))
        for each in watchers
    ]
    for thread in threads:
        thread.start()
    with shared_server.client() as client:
        while len(client.hget(f"{queue.prefix}v", submission.run_id) or b"") < 16:
            continue
        if state == "cancelled":
            queue.cancel(submission.run_id)
        else:
            lane.step([done(claim, state=state) for claim in lane.step([], 2).claims], 0)
        assert not client.exists(f"{queue.prefix}v")
    for thread in threads:
        thread.join()
    assert told == [{submission.run_id}] * 2


def test_an_end_in_another_lane_than_the_claims_is_taken(queue: RedisQueue, hire) -> None:
    queue.submit(run())
    worker = hire(lanes=2)
    (claim,) = worker.lane.step([], 1).claims
    assert worker.lanes[1].step([done(claim)], 0).lost == []
    assert queue.record(claim.run_id).state == "completed"


def test_the_clock_of_a_lane_goes_on_from_what_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 100.0
    monkeypatch.setattr("kapstan.queue.server_clock.time.monotonic", lambda: seconds)
    clock = ServerClock()
    clock.told(b"0000001000")
    seconds = 100.25
    assert clock.now() == b"%010x" % (0x1000 + 250)
    clock.told_time(b"1577836801", b"999")
    seconds = 101.25
    assert clock.now() == b"%010x" % 2000
    assert clock.fresh
    seconds = 161.0
    assert not clock.fresh


@pytest.mark.parametrize("told", [True, False])
def test_runs_submitted_together_carry_the_servers_moment(queue: RedisQueue, shared_server: RedisServer, told) -> None:
    """Also on a connection whose clock is too old to go by."""
    queue.ping()
    if not told:
        queue._idle[0].clock = ServerClock()
    with shared_server.client() as client:
        seconds, micros = client.time()
        submission = run()
        queue.submit_many([submission])
        after, _ = client.time()
    assert seconds + micros / 1e6 - 0.5 <= queue.record(submission.run_id).since <= after + 1.5


def test_tasks_have_routes_of_their_own_in_one_hand_in(queue: RedisQueue, hire) -> None:
    """Outcomes are handed in by groups of client and route: each is counted for its own."""
    tasks = (TASK, "b:b", "c:c")
    queue.submit_many([run(task) for task in tasks for _ in range(3)])
    lane = hire(tasks).lane
    claims = lane.step([], 9).claims
    mixed = [claims[place] for place in (0, 3, 6, 1, 4, 7, 2, 5, 8)]
    states = ["completed", "failed", "completed"]
    assert lane.step([done(claim, state=states[at % 3]) for at, claim in enumerate(mixed)], 0).lost == []
    assert [queue.depth([task]).running for task in tasks] == [0, 0, 0]
    ended = RedisBackgroundRuns(queue).counts(2)
    totals: dict[tuple[str, str], int] = {}
    for _, fields in ended:
        for field, number in fields.items():
            totals[field] = totals.get(field, 0) + number
    assert [totals.get(("completed", task), 0) for task in tasks] == [3, 0, 3]
    assert [totals.get(("failed", task), 0) for task in tasks] == [0, 3, 0]
