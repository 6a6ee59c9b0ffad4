"""Background runs as people see them and act on them: ``kapstan task-run`` over ``runs.task_runs``."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest
from tests.contract.queue.makers import worker
from tests.servers.redis import RedisServer

from kapstan import backend as backends
from kapstan import ids
from kapstan.backend import Backend
from kapstan.engine import values
from kapstan.errors import NotFound, NotPossible
from kapstan.ids import RunId
from kapstan.ports import Outcome, Submission
from kapstan.runs.task_runs import TaskRuns

TASK = "shop:charge"


@pytest.fixture
def runs(backend: Backend) -> TaskRuns:
    return TaskRuns(backend)


def submit(backend: Backend, *arguments: object, run_id: RunId = "", task: str = TASK, delay: float = 0.0) -> RunId:
    run_id = run_id or ids.new_id()
    envelope = backend.codec.encode([list(arguments), {}], "arguments", values.arguments_key(run_id, task))
    backend.queue.submit(Submission(run_id, task, envelope, "12345678", delay=delay))
    return run_id


def fail(backend: Backend, run_id: RunId) -> None:
    hired = worker(backend.queue, (TASK,))
    (claim,) = hired.lane.step([], 1).claims
    assert claim.run_id == run_id
    error = values.seal_failure(backend, ValueError("no funds"), run_id).envelope
    hired.lane.step([Outcome(run_id, claim.token, "failed", error)], 0)
    hired.close()


def uuid(run_id: RunId) -> str:
    return str(ids.to_uuid(run_id))


def test_a_list_says_why_each_run_is_where_it_is(backend: Backend, kapstan) -> None:
    failed = submit(backend, 1)
    fail(backend, failed)
    waits, later = submit(backend, 2), submit(backend, 3, delay=90.0)
    listed = {run["id"]: run for run in json.loads(kapstan("task-run", "ls", "-o", "json").stdout)}
    assert (listed[uuid(failed)]["state"], listed[uuid(failed)]["why"]) == ("Failed", "ValueError: no funds")
    assert listed[uuid(failed)]["took"] >= 0
    assert (listed[uuid(waits)]["state"], listed[uuid(waits)]["why"]) == ("Scheduled", f"no worker serves {TASK}")
    assert listed[uuid(later)]["why"].startswith("due in ")
    hired = worker(backend.queue, (TASK,))
    (claim,) = hired.lane.step([], 1).claims
    listed = {run["id"]: run for run in json.loads(kapstan("task-run", "ls", "-o", "json").stdout)}
    assert listed[claim.run_id and uuid(waits)]["why"] == f"on {hired.session.name}"
    hired.close()


def test_a_table_in_a_pipe_is_never_cut(backend: Backend, kapstan) -> None:
    long = "shop.a_long_package.with_a_long_module:and_a_task_with_a_name_that_fills_a_line_" + "x" * 100
    run_id = submit(backend, task=long)
    lines = kapstan("task-run", "ls").stdout.splitlines()
    assert len(lines) == 2
    assert uuid(run_id) in lines[1]
    assert lines[1].count(long) == 2  # the task, and why it waits


def test_pages_follow_the_cursor(backend: Backend, kapstan) -> None:
    expected = [uuid(submit(backend, number)) for number in range(5)][::-1]
    first = kapstan("task-run", "ls", "--limit", "3", "-o", "json")
    cursor = first.stderr.strip().rpartition("--cursor=")[2]
    second = kapstan("task-run", "ls", "--limit", "3", "--cursor", cursor, "-o", "json")
    assert [run["id"] for run in (*json.loads(first.stdout), *json.loads(second.stdout))] == expected
    assert second.stderr == ""


def test_filters(backend: Backend, kapstan) -> None:
    failed = submit(backend, 1)
    fail(backend, failed)
    other = submit(backend, 1, task="mail:send")
    for arguments, expected in (
        (("--state", "failed"), [failed]),
        (("--state", "FAILED", "--state", "scheduled"), [other, failed]),
        (("--task", "send"), [other]),
        (("--since", "1h"), [other, failed]),
        (("--until", "2020-01-01"), []),
    ):
        found = json.loads(kapstan("task-run", "ls", "-o", "json", *arguments).stdout)
        assert [run["id"] for run in found] == [uuid(run_id) for run_id in expected], arguments
    refused = kapstan("task-run", "ls", "--state", "done")
    assert "--state done: give one of Scheduled, Running" in refused.stderr
    assert "give 90s, 30m" in kapstan("task-run", "ls", "--since", "yesterday").stderr


def test_inspect_shows_arguments_then_the_error(backend: Backend, kapstan) -> None:
    run_id = submit(backend, "order-7")
    assert json.loads(kapstan("task-run", "inspect", uuid(run_id), "-o", "json").stdout)["arguments"] == [
        ["order-7"],
        {},
    ]
    fail(backend, run_id)
    shown = json.loads(kapstan("task-run", "inspect", run_id, "-o", "json").stdout)
    assert (shown["state"], shown["error"], shown["message"]) == ("Failed", "ValueError", "no funds")


def test_a_large_argument_is_fetched_from_the_store(backend: Backend, runs: TaskRuns) -> None:
    run_id = ids.new_id()
    key = values.arguments_key(run_id, TASK)
    envelope = values.seal_value(backend, [["x" * 20_000], {}], "arguments", key, what="it")
    backend.queue.submit(Submission(run_id, TASK, envelope, "12345678"))
    assert runs.view(run_id)[1]["arguments"] == [["x" * 20_000], {}]
    backend.queue.cancel(run_id)
    runs.delete(run_id)
    assert list(backend.store.keys(f"values/{run_id}/")) == []


class TestNames:
    def test_a_unique_beginning_is_enough(self, backend: Backend, runs: TaskRuns) -> None:
        old = ids.new_id(1_600_000_000 * 10**9)
        new = submit(backend, run_id=old)
        submit(backend)
        # its entry stands at the time of its submission, its digits at the time of its making: an hour apart at most
        assert runs.find(uuid(new)) == new
        young = submit(backend)
        assert runs.find(uuid(young)[:-1]) == young

    def test_an_ambiguous_one_names_the_runs(self, backend: Backend, kapstan) -> None:
        first, second = submit(backend), submit(backend)
        refused = kapstan("task-run", "inspect", uuid(first)[:8])
        assert f"is the beginning of several ids: {uuid(second)}, {uuid(first)}" in refused.stderr

    def test_an_unknown_one(self, kapstan) -> None:
        assert "the queue does not know task run" in kapstan("task-run", "inspect", uuid(ids.new_id())).stderr
        assert "no task run has the id 'nonsense'" in kapstan("task-run", "cancel", "nonsense").stderr

    def test_an_id_of_an_older_release_is_no_option(self, backend: Backend, kapstan) -> None:
        old = "-0cX5EH88stuKJPy-D42pl"
        submit(backend, 7, run_id=old)
        assert f"Cancelled task run {uuid(old)}" in kapstan("task-run", "cancel", old, "--wait", "1").stdout
        assert json.loads(kapstan("task-run", "inspect", old, "-o", "json").stdout)["state"] == "Cancelled"

    def test_no_new_id_begins_with_a_dash(self) -> None:
        made = [*ids.new_ids(1000), ids.new_id(), ids.new_nonce(), ids.encode(0), ids.encode((1 << 128) - 1)]
        made += [ids.derived_id(str(number)) for number in range(1000)]
        assert {run_id[0] for run_id in made} <= set("3456")
        assert all(ids.parse(uuid(run_id)) == run_id for run_id in made)


class TestCancel:
    def test_a_run_that_waits_ends_at_once_and_twice_is_told(self, backend: Backend, runs: TaskRuns) -> None:
        run_id = submit(backend)
        assert runs.cancel(run_id) == "Cancelled"
        with pytest.raises(NotPossible, match="has ended before: Cancelled"):
            runs.cancel(run_id)

    def test_one_that_runs_is_told_and_its_end_is_awaited(self, backend: Backend, runs: TaskRuns) -> None:
        run_id = submit(backend)
        hired = worker(backend.queue, (TASK,))
        (claim,) = hired.lane.step([], 1).claims

        def obey() -> None:
            while run_id not in hired.session.renew().cancelled:
                hired.session.wait(1.0)
            hired.lane.step([Outcome(run_id, claim.token, "cancelled", b"")], 0)

        obeying = threading.Thread(target=obey)
        obeying.start()
        assert runs.cancel(run_id, wait=30.0) == "Cancelled"
        obeying.join()
        hired.close()

    def test_one_that_completes_first_is_completed(self, backend: Backend, runs: TaskRuns) -> None:
        run_id = submit(backend)
        hired = worker(backend.queue, (TASK,))
        (claim,) = hired.lane.step([], 1).claims
        assert runs.cancel(run_id) == "Running"
        hired.lane.step([Outcome(run_id, claim.token, "completed", b"")], 0)
        with pytest.raises(NotPossible, match="has ended before: Completed"):
            runs.cancel(run_id, wait=30.0)
        hired.close()


class TestRetryAndDelete:
    def test_each_refusal_says_why(self, backend: Backend, runs: TaskRuns) -> None:
        with pytest.raises(NotFound):
            runs.retry(ids.new_id())
        with pytest.raises(NotFound):
            runs.delete(ids.new_id())
        run_id = submit(backend)
        with pytest.raises(NotPossible, match="is Scheduled: it needs no retry"):
            runs.retry(run_id)
        with pytest.raises(NotPossible, match="is Scheduled: cancel it before you delete it"):
            runs.delete(run_id)
        hired = worker(backend.queue, (TASK,))
        (claim,) = hired.lane.step([], 1).claims
        with pytest.raises(NotPossible, match="is Running: cancel it before"):
            runs.delete(run_id)
        hired.lane.step([Outcome(run_id, claim.token, "completed", b"")], 0)
        hired.close()
        with pytest.raises(NotPossible, match="is Completed: to do it once more, submit it anew"):
            runs.retry(run_id)

    @pytest.mark.parametrize("how", ["a text", "a list", "ended by a worker"])
    def test_a_run_whose_record_cannot_be_read_is_gone(
        self, backend: Backend, kapstan, shared_server: RedisServer, how: str
    ) -> None:
        run_id = submit(backend)
        key = f"{{{backend.settings.namespace}}}:t:{run_id}"
        with shared_server.client() as client:
            client.delete(key)
            if how == "a list":
                client.rpush(key, "of another program")
            else:
                client.set(key, b"1q")
        if how == "ended by a worker":
            assert backend.queue.cancel(run_id) == "crashed"
        for _ in range(2):
            answer = kapstan("task-run", "retry", uuid(run_id))
            assert answer.exit_code == 1
            assert f"task run {uuid(run_id)} cannot run again, submit it anew: its record in Redis" in answer.stderr
        with shared_server.client() as client:
            assert not client.exists(f"{{{backend.settings.namespace}}}:q:"), "a list that nobody serves"

    def test_arguments_that_have_expired_are_named(
        self, backend: Backend, runs: TaskRuns, shared_server: RedisServer
    ) -> None:
        run_id = submit(backend)
        fail(backend, run_id)
        with shared_server.client() as client:
            client.delete(f"{{{backend.settings.namespace}}}:args:{run_id}")
        with pytest.raises(NotPossible, match="its arguments are not kept any more"):
            runs.retry(run_id)

    def test_one_of_many_that_is_refused_stops_none(self, backend: Backend, kapstan) -> None:
        first, second = submit(backend), submit(backend)
        fail(backend, first)
        answer = kapstan("task-run", "retry", uuid(second), uuid(first))
        assert answer.exit_code == 1
        assert f"Submitted again: task run {uuid(first)}" in answer.stdout
        assert f"task run {uuid(second)} is Scheduled" in answer.stderr


def test_a_record_that_somebody_spoilt_is_told_as_such(backend: Backend, kapstan, shared_server: RedisServer) -> None:
    good, foreign, spoilt = submit(backend), submit(backend), submit(backend)
    prefix = f"{{{backend.settings.namespace}}}:"
    with shared_server.client() as client:
        record = client.get(f"{prefix}t:{foreign}")
        client.set(
            f"{prefix}t:{foreign}", record.replace(backend.queue.record(foreign).envelope, b"1jforged" + b"x" * 60)
        )
        client.set(f"{prefix}t:{spoilt}", b"1q")
    listed = json.loads(kapstan("task-run", "ls", "-o", "json").stdout)
    assert [(run["id"], run["state"]) for run in listed] == [
        (uuid(spoilt), "Crashed"),
        (uuid(foreign), "Scheduled"),
        (uuid(good), "Scheduled"),
    ]
    assert "its record in Redis cannot be read" in listed[0]["why"]
    assert "cannot be read" in json.loads(kapstan("task-run", "inspect", foreign, "-o", "json").stdout)["arguments"]
    assert "its record in Redis cannot be read" in kapstan("task-run", "inspect", spoilt).stdout


def test_a_redis_that_is_away_is_one_line(backend: Backend, kapstan, tmp_path, monkeypatch) -> None:
    backends.use(replace(backend.settings, redis_url=f"unix://{tmp_path}/nobody.sock", redis_retry_seconds=0.2))
    for arguments in (("ls",), ("inspect", uuid(ids.new_id())), ("retry", uuid(ids.new_id()))):
        answer = kapstan("task-run", *arguments)
        assert answer.exit_code != 0
        assert answer.stderr.count("\n") == 1
        assert "nobody.sock" in answer.stderr
