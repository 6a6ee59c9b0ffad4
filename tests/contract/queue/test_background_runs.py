"""Lists, counters and operations of background runs: pages are whole, in order and bounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.contract.queue.makers import TASK, done, run
from tests.servers.redis import RedisServer

from kapstan.errors import ConfigurationError
from kapstan.ids import RunId, derived_id, new_id
from kapstan.ports import BackgroundFilter, Change
from kapstan.ports.background_runs import SCANNED
from kapstan.queue.background_runs import RedisBackgroundRuns
from kapstan.queue.redis import RedisQueue
from kapstan.queue.run_lists import HOUR
from kapstan.queue.wire import pack

ALL = BackgroundFilter()


@pytest.fixture
def runs(queue: RedisQueue) -> RedisBackgroundRuns:
    return RedisBackgroundRuns(queue)


def every_page(runs: RedisBackgroundRuns, chosen: BackgroundFilter = ALL, limit: int = 3) -> list[RunId]:
    """The ids of all pages, each page asked for by the cursor of the one before."""
    found: list[RunId] = []
    cursor: str | None = ""
    while cursor is not None:
        page = runs.page(chosen, limit, cursor)
        assert len(page.runs) <= limit
        found += [listed.record.run_id for listed in page.runs]
        cursor = page.cursor
    return found


class Reads:
    """Counts the commands that a queue sends."""

    def __init__(self, queue: RedisQueue, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[bytes] = []
        commands, command = queue.commands, queue.command

        def many(packed):
            self.names += [each.split(b"\r\n")[2] for each in packed]
            return commands(packed)

        def one(packed):
            self.names.append(packed.split(b"\r\n")[2])
            return command(packed)

        monkeypatch.setattr(queue, "commands", many)
        monkeypatch.setattr(queue, "command", one)


def place_by_hand(server: RedisServer, queue: RedisQueue, task: str, at: list[int], kind: str = "i") -> list[RunId]:
    """Entries of runs that were submitted at these moments (ms since 1970), with records."""
    ids = [new_id() for _ in at]
    for run_id in ids:
        queue.submit(run(task, run_id=run_id))
    with server.client() as client:
        for key in [*client.scan_iter(f"{queue.prefix}{kind}:*:{task}")]:
            client.delete(key)
        for run_id, moment in zip(ids, at, strict=True):
            entry = (moment % HOUR).to_bytes(3, "big") + run_id.encode()
            client.rpush(f"{queue.prefix}{kind}:{moment // HOUR}:{task}", entry)
            client.sadd(f"{queue.prefix}{kind}r:{moment // HOUR}", task)
    return ids


class TestPages:
    def test_pages_hold_every_run_once_newest_first(self, queue: RedisQueue, runs: RedisBackgroundRuns) -> None:
        submissions = [run(task) for task in ("a:a", "b:b", "c:c") for _ in range(7)]
        queue.submit_many(submissions[:15])
        for submission in submissions[15:]:
            queue.submit(submission)
        found = every_page(runs)
        assert sorted(found) == sorted(each.run_id for each in submissions)
        assert found[:6] == [each.run_id for each in reversed(submissions[15:])]

    @pytest.mark.parametrize("limit", [1, 4, 100])
    def test_hours_routes_and_equal_moments_are_merged(
        self, queue: RedisQueue, runs: RedisBackgroundRuns, shared_server: RedisServer, limit: int
    ) -> None:
        with shared_server.client() as client:
            now = int(client.time()[0]) * 1000
        moments = [now - 3 * HOUR, now - 3 * HOUR + 5, *[now - 1000] * 40, now - 10]
        expected: list[tuple[int, RunId]] = []
        for task in ("a:a", "b:b"):
            expected += zip(moments, place_by_hand(shared_server, queue, task, moments), strict=True)
        assert every_page(runs, limit=limit) == [run_id for _, run_id in sorted(expected, reverse=True)]

    @pytest.mark.parametrize("limit", [1, 7, 100])
    def test_runs_submitted_together_are_listed_each(
        self, queue: RedisQueue, runs: RedisBackgroundRuns, limit: int
    ) -> None:
        """They share entries of the list; a page may end within one."""
        together = [run(task) for task in ("a:a", "b:b") for _ in range(40)]
        queue.submit_many([*together, *together[:20]])
        queue.submit(alone := run("a:a"))
        lists = queue.command(pack("KEYS", f"{queue.prefix}i:*"))
        assert sum(queue.commands([pack("LLEN", key) for key in lists])) == 3 + 3 + 1  # 16 at most in an entry
        found = every_page(runs, limit=limit)
        assert found[0] == alone.run_id
        assert sorted(found) == sorted(each.run_id for each in (*together, alone))

    def test_what_comes_meanwhile_moves_no_page(self, queue: RedisQueue, runs: RedisBackgroundRuns) -> None:
        submissions = [run() for _ in range(8)]
        queue.submit_many(submissions)
        first = runs.page(ALL, 4)
        queue.submit_many([run() for _ in range(50)])
        assert first.cursor is not None
        second = runs.page(ALL, 4, first.cursor)
        assert [each.record.run_id for each in (*first.runs, *second.runs)] == [
            each.run_id for each in reversed(submissions)
        ]

    def test_a_page_reads_a_bounded_number_of_records_of_however_many(
        self, queue: RedisQueue, runs: RedisBackgroundRuns, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queue.submit_many([run("a:a") for _ in range(SCANNED + 500)])
        queue.submit(run("b:b"))
        reads = Reads(queue, monkeypatch)
        assert len(runs.page(ALL, 50).runs) == 50
        assert reads.names.count(b"GETRANGE") == 50
        assert len(reads.names) < 500
        reads.names.clear()
        page = runs.page(BackgroundFilter(states=frozenset({"completed"})), 50)
        assert (page.runs, page.cursor is None, page.searched_until is None) == ([], False, False)
        assert reads.names.count(b"GETRANGE") == SCANNED
        assert b"MGET" not in reads.names
        rest = runs.page(BackgroundFilter(states=frozenset({"completed"})), 50, page.cursor or "")
        assert (rest.runs, rest.cursor) == ([], None)

    def test_runs_of_one_moment_are_read_on_only_where_the_page_stands(
        self, queue: RedisQueue, runs: RedisBackgroundRuns, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A bulk submit gives hundreds of runs one millisecond, in every list; a page needs those of the newest."""
        for number in range(30):
            queue.submit_many([run(f"m:task{number}") for _ in range(250)])
        read = 0
        commands = queue.commands

        def counted(packed):
            nonlocal read
            replies = commands(packed)
            read += sum(len(reply) for reply in replies if isinstance(reply, list))
            return replies

        monkeypatch.setattr(queue, "commands", counted)
        assert {listed.record.task for listed in runs.page(ALL, 50).runs} == {"m:task29"}
        assert read < 30 * 16 + 1000

    def test_routes_beyond_the_five_hundredth_share_a_list(self, queue: RedisQueue, runs: RedisBackgroundRuns) -> None:
        submissions = [run(f"m:task{number}") for number in range(510)]
        for submission in submissions:
            queue.submit(submission)
        assert every_page(runs, limit=100) == [each.run_id for each in reversed(submissions)]
        assert every_page(runs, BackgroundFilter(task="m:task505")) == [submissions[505].run_id]

    def test_records_that_are_gone_are_passed_over(
        self, queue: RedisQueue, runs: RedisBackgroundRuns, shared_server: RedisServer
    ) -> None:
        submissions = [run() for _ in range(4)]
        queue.submit_many(submissions)
        with shared_server.client() as client:
            client.delete(f"{queue.prefix}t:{submissions[3].run_id}")
            client.set(f"{queue.prefix}t:{submissions[2].run_id}", b"nonsense")
        assert every_page(runs) == [submission.run_id for submission in reversed(submissions[:3])]
        unreadable = runs.page(ALL, 10).runs[0]
        assert (unreadable.record.state, unreadable.record.run_id, unreadable.record.envelope) == (
            "crashed",
            submissions[2].run_id,
            b"",
        )

    @pytest.mark.parametrize("cursor", ["nonsense", "e12-" + "A" * 22, "i12-short", "-1"])
    def test_a_cursor_of_another_list_is_refused(self, runs: RedisBackgroundRuns, cursor: str) -> None:
        with pytest.raises(ConfigurationError, match="cursor="):
            runs.page(ALL, 10, cursor)


class TestFilters:
    @pytest.fixture
    def ended(self, queue: RedisQueue, hire) -> dict[str, RunId]:
        """One run in each state."""
        worker = hire((TASK, "b:send"))
        submissions = [run(), run(), run(), run("b:send"), run(delay=60.0), run("b:send", queue="slow")]
        queue.submit_many(submissions)
        claims = {claim.run_id: claim for claim in worker.lane.step([], 3).claims}
        first, second, third = (each.run_id for each in submissions[:3])
        worker.lane.step([done(claims[first]), done(claims[second], state="failed")], 0)
        queue.cancel(submissions[3].run_id)
        names = ("completed", "failed", "running", "cancelled", "delayed", "ready")
        assert claims[third]
        return dict(zip(names, [each.run_id for each in submissions], strict=True))

    @pytest.mark.parametrize("state", ["completed", "failed", "running", "cancelled", "delayed", "ready"])
    def test_by_state(self, runs: RedisBackgroundRuns, ended: dict[str, RunId], state) -> None:
        assert every_page(runs, BackgroundFilter(states=frozenset({state}))) == [ended[state]]

    def test_by_several_states(self, runs: RedisBackgroundRuns, ended: dict[str, RunId]) -> None:
        assert every_page(runs, BackgroundFilter(states=frozenset({"failed", "cancelled"}))) == [
            ended["cancelled"],
            ended["failed"],
        ]

    def test_by_task_and_queue(self, runs: RedisBackgroundRuns, ended: dict[str, RunId]) -> None:
        assert every_page(runs, BackgroundFilter(task="send")) == [ended["ready"], ended["cancelled"]]
        assert every_page(runs, BackgroundFilter(task="b:send", queue="slow")) == [ended["ready"]]
        assert every_page(runs, BackgroundFilter(task="end")) == []

    def test_by_time(
        self, queue: RedisQueue, runs: RedisBackgroundRuns, shared_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with shared_server.client() as client:
            now = int(client.time()[0])
        moments = [(now - age) * 1000 for age in (7200, 3600, 60, 5)]
        old, older_hour, minute, young = place_by_hand(shared_server, queue, TASK, moments)
        assert every_page(runs, BackgroundFilter(since=now - 3600)) == [young, minute, older_hour]
        assert every_page(runs, BackgroundFilter(until=now - 60)) == [older_hour, old]
        assert every_page(runs, BackgroundFilter(since=now - 3600, until=now - 5)) == [minute, older_hour]


class TestRecords:
    def test_a_record_tells_its_moments_and_who_ran_it(
        self, queue: RedisQueue, hire, runs: RedisBackgroundRuns
    ) -> None:
        submission = run()
        queue.submit(submission)
        worker = hire()
        (claim,) = worker.lane.step([], 1).claims
        (running,) = runs.page(ALL, 1).runs
        assert running.record.started == running.record.since >= (running.submitted or 0) > 1.7e9
        worker.lane.step([done(claim)], 0)
        (ended,) = runs.page(ALL, 1).runs
        assert ended.record.started == running.record.started
        assert ended.record.since >= running.record.since
        assert ended.record.session == worker.session.name
        assert (ended.record.task, ended.record.envelope) == (TASK, b"")
        assert queue.record(submission.run_id).envelope == b"result"

    def test_a_run_that_never_started_says_so(self, queue: RedisQueue, runs: RedisBackgroundRuns) -> None:
        queue.submit(run(run_id=derived_id("x")))
        queue.cancel(derived_id("x"))
        (listed,) = runs.page(ALL, 1).runs
        assert (listed.record.state, listed.record.started, listed.record.session) == ("cancelled", None, "")
        assert (listed.submitted or 0) > 1.7e9  # its id does not tell, its place does


class TestAgain:
    @pytest.mark.parametrize("end", ["failed", "crashed", "cancelled"])
    def test_a_run_that_did_not_complete_runs_again_with_its_arguments(
        self, queue: RedisQueue, hire, runs: RedisBackgroundRuns, end
    ) -> None:
        submission = run(envelope=b"\0what\x1fit had\0", effect="a")
        queue.submit(submission)
        worker = hire()
        (claim,) = worker.lane.step([], 1).claims
        worker.lane.step([done(claim, b"error", end)], 0)
        assert runs.rerun(submission.run_id) == (Change.DONE, end)
        (again,) = worker.lane.step([], 1).claims
        assert (again.envelope, again.attempt, again.crashes, again.effect) == (submission.envelope, 1, 0, "a")
        assert again.token > claim.token
        worker.lane.step([done(again)], 0)
        assert queue.record(submission.run_id).state == "completed"
        assert every_page(runs, BackgroundFilter(states=frozenset({"failed", "crashed", "cancelled"}))) == []

    def test_an_idle_lane_is_handed_it_at_once(self, queue: RedisQueue, hire, runs: RedisBackgroundRuns) -> None:
        submission = run()
        queue.submit(submission)
        queue.cancel(submission.run_id)
        worker = hire()
        assert worker.lane.step([], 1).claims == []
        runs.rerun(submission.run_id)
        assert [claim.run_id for claim in worker.lane.wait(10.0)] == [submission.run_id]

    def test_twice_is_once(self, queue: RedisQueue, hire, runs: RedisBackgroundRuns) -> None:
        submission = run()
        queue.submit(submission)
        queue.cancel(submission.run_id)
        assert runs.rerun(submission.run_id) == (Change.DONE, "cancelled")
        assert runs.rerun(submission.run_id) == (Change.REFUSED, "ready")
        assert len(hire().lane.step([], 5).claims) == 1

    def test_what_cannot_run_again(
        self, queue: RedisQueue, hire, runs: RedisBackgroundRuns, shared_server: RedisServer
    ) -> None:
        assert runs.rerun(new_id()) == (Change.UNKNOWN, None)
        completed, failed = run(), run()
        queue.submit_many([completed, failed])
        worker = hire()
        claims = worker.lane.step([], 2).claims
        assert runs.rerun(failed.run_id) == (Change.REFUSED, "running")
        worker.lane.step([done(claims[0]), done(claims[1], state="failed")], 0)
        assert runs.rerun(completed.run_id) == (Change.REFUSED, "completed")
        with shared_server.client() as client:
            client.delete(f"{queue.prefix}args:{failed.run_id}")
        assert runs.rerun(failed.run_id) == (Change.GONE, "failed")

    def test_a_cancelled_run_that_still_stands_in_its_list_runs_once(
        self, queue: RedisQueue, hire, runs: RedisBackgroundRuns
    ) -> None:
        """A cancel leaves the id in the ready list until a claim skips it; the retry adds a second one."""
        submission = run()
        queue.submit(submission)
        queue.cancel(submission.run_id)
        runs.rerun(submission.run_id)
        worker = hire()
        claims = worker.lane.step([], 5).claims
        assert [claim.run_id for claim in claims] == [submission.run_id]
        worker.lane.step([done(claims[0])], 0)
        assert worker.lane.step([], 5).claims == []


class TestDelete:
    def test_a_run_that_ended_is_forgotten(
        self, queue: RedisQueue, runs: RedisBackgroundRuns, shared_server: RedisServer
    ) -> None:
        submission = run()
        queue.submit(submission)
        assert runs.delete(submission.run_id) == (Change.REFUSED, "ready")
        queue.cancel(submission.run_id)
        assert runs.delete(submission.run_id) == (Change.DONE, "cancelled")
        assert runs.delete(submission.run_id) == (Change.UNKNOWN, None)
        assert every_page(runs) == []
        with shared_server.client() as client:
            assert not client.exists(f"{queue.prefix}args:{submission.run_id}", f"{queue.prefix}t:{submission.run_id}")

    def test_a_run_at_work_is_not(self, queue: RedisQueue, hire, runs: RedisBackgroundRuns) -> None:
        submission = run()
        queue.submit(submission)
        hire().lane.step([], 1)
        assert runs.delete(submission.run_id) == (Change.REFUSED, "running")
        assert queue.record(submission.run_id) is not None


def test_what_happened_is_counted_by_minute(queue: RedisQueue, hire, runs: RedisBackgroundRuns) -> None:
    queue.submit_many([run() for _ in range(5)])
    worker = hire()
    claims = worker.lane.step([], 4).claims
    worker.lane.step([*[done(claim) for claim in claims[:3]], done(claims[3], state="failed")], 0)
    total: dict[tuple[str, str], int] = {}
    for _, counts in runs.counts(2):
        for field, number in counts.items():
            total[field] = total.get(field, 0) + number
    assert total == {("submitted", TASK): 5, ("running", TASK): 4, ("completed", TASK): 3, ("failed", TASK): 1}


def test_runs_submitted_together_are_counted_each(queue: RedisQueue, runs: RedisBackgroundRuns) -> None:
    together = [run() for _ in range(300)]
    queue.submit_many([*together, *together[:100]])
    queue.submit_many([run(delay=60.0) for _ in range(17)])
    queue.submit(run())
    assert sum(number for _, counts in runs.counts(2) for number in counts.values()) == 318


def test_submits_are_counted_by_where_minutes_begin_in_the_lists(
    shared_server: RedisServer, queue: RedisQueue, runs: RedisBackgroundRuns
) -> None:
    with shared_server.client() as client:
        now = int(client.time()[0])
    first = now // 60 * 60_000 - 120 * 60_000  # two hours ago, over two ends of hours
    wanted = {("a:a", minute): minute % 4 for minute in range(121)} | {("b:b", 30): 900, ("b:b", 31): 1}
    for task in ("a:a", "b:b"):
        numbers = [(minute, number) for (name, minute), number in wanted.items() if name == task]
        # the first and the last millisecond of a minute belong to it
        at = [
            first + minute * 60_000 + (59_999 if each % 2 else 0)
            for minute, number in numbers
            for each in range(number)
        ]
        place_by_hand(shared_server, queue, task, sorted(at))
    found = {
        (route, round(begins * 1000 - first) // 60_000): number
        for begins, counts in runs.counts(180)
        for (state, route), number in counts.items()
        if state == "submitted"
    }
    assert found == {place: number for place, number in wanted.items() if number}


def test_counters_stay_bounded(
    queue: RedisQueue, runs: RedisBackgroundRuns, open_queue: Callable[..., RedisQueue]
) -> None:
    for number in range(3_050):
        queue.submit(run(f"m:task{number}"))
    for _, counts in runs.counts(2):
        assert len(counts) <= 3_002
    assert sum(number for _, counts in runs.counts(2) for number in counts.values()) == 3_050


def test_what_is_no_text_under_the_name_of_a_run_hides_no_other(queue: RedisQueue, runs: RedisBackgroundRuns) -> None:
    spoiled, sound = run(), run()
    queue.submit_many([spoiled, sound])
    queue.commands([pack("DEL", key := f"{queue.prefix}t:{spoiled.run_id}"), pack("HSET", key, "a", "b")])
    assert [listed.record.run_id for listed in runs.page(BackgroundFilter(), 9).runs] == [sound.run_id]
