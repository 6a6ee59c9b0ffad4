"""Flow runs as people see them and act on them: where an operation is recorded, and what each refusal says."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.integration.runs.makers import HERE, begin, uuid
from tests.servers.redis import RedisServer

from kapstan import backend as backends
from kapstan import ids
from kapstan.backend import Backend
from kapstan.errors import Fenced, NotFound, NotPossible
from kapstan.ids import RunId
from kapstan.journal import AttemptEnd, Journal, TaskOutcome, read_journal
from kapstan.results import read_flow_run
from kapstan.runs import ending
from kapstan.runs.ending import end_run
from kapstan.runs.flow_runs import FlowRuns
from kapstan.runs.flow_view import FlowRunFilter
from kapstan.runs.records import Records
from kapstan.states import AttemptOutcome


@pytest.fixture
def runs(backend: Backend) -> FlowRuns:
    return FlowRuns(backend)


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(100)"], stdout=-1)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def ends(backend: Backend, run_id: RunId) -> list[str | None]:
    attempts = read_journal(backend.store, backend.codec, run_id).attempts
    return [None if attempt.end is None else attempt.end.end for attempt in attempts]


def everyone_says(backend: Backend, run_id: RunId) -> set[str]:
    """What journal, index, the control plane's shortcut, Python and the command line say of a run."""
    end = read_journal(backend.store, backend.codec, run_id).end
    shortcut = Records(backend).ended(run_id)
    summary = backend.flow_runs.load(run_id)
    assert end is not None
    assert shortcut is not None
    assert shortcut.end is not None
    assert summary is not None
    view = FlowRuns(backend).view(run_id)
    return {end.end, shortcut.end.outcome, summary["state_name"], read_flow_run(run_id).name, view.state}


class TestCancel:
    def test_everybody_who_asks_hears_cancelled(self, backend: Backend, runs: FlowRuns, dead: int) -> None:
        run_id = begin(backend, host=HERE, pid=dead)
        assert runs.cancel(run_id) == "Cancelled"
        assert everyone_says(backend, run_id) == {"Cancelled"}
        assert ends(backend, run_id) == [None, "Cancelled"]

    @pytest.mark.parametrize("state", ["Cancelled", "Crashed"])
    def test_so_does_everybody_after_the_operator_declared_it(
        self, backend: Backend, runs: FlowRuns, state: Any
    ) -> None:
        run_id = begin(backend, end="HandedBack", deployment="nightly")
        for _ in range(2):
            Records(backend).declare(run_id, state, "it was given up")
        assert everyone_says(backend, run_id) == {state}
        assert ends(backend, run_id) == ["HandedBack", state]
        with pytest.raises(NotPossible, match=f"has ended: {state}"):
            runs.cancel(run_id)
        runs.delete(run_id)

    def test_an_end_that_was_recorded_is_not_declared_otherwise(self, backend: Backend) -> None:
        run_id = begin(backend, end="Completed")
        Records(backend).declare(run_id, "Crashed", "nothing was heard of it")
        assert everyone_says(backend, run_id) == {"Completed"}

    def test_the_index_alone_says_so_where_nobody_can_open_the_journal(self, backend: Backend) -> None:
        run_id = begin(backend, end="HandedBack")
        (journal,) = backend.settings.home_path.rglob(f"{run_id}.log")
        journal.write_bytes(damaged := journal.read_bytes().replace(b"opening", b"0pening"))
        Records(backend).declare(run_id, "Crashed", "no attempt can begin")
        summary = backend.flow_runs.load(run_id)
        assert summary is not None
        assert (summary["state"], summary["message"]) == ("CRASHED", "no attempt can begin")
        assert journal.read_bytes() == damaged

    def test_a_run_that_never_began_is_ended_too_and_no_attempt_may_begin(self, backend: Backend) -> None:
        run_id = ids.new_id()
        Records(backend).declare(run_id, "Cancelled", "stopped on request")
        with pytest.raises(Fenced):
            Journal(backend.store, backend.codec, run_id).open(1, host=HERE, now=0.0)

    def test_a_process_that_lives_on_is_fenced(self, backend: Backend, runs: FlowRuns) -> None:
        run_id = ids.new_id()
        living = Journal(backend.store, backend.codec, run_id)
        living.open(1, host="elsewhere", now=time.time())
        backend.flow_runs.save(run_id, {"state": "RUNNING", "state_name": "Running", "attempt": 1, "host": "elsewhere"})
        with pytest.raises(NotPossible, match="is at work on elsewhere, in a process that keeps no lease"):
            runs.cancel(run_id)
        assert runs.cancel(run_id, force=True) == "Cancelled"
        with pytest.raises(Fenced):
            living.append(TaskOutcome(ids.new_id(), "t", "t-0", "COMPLETED"))
        living.close()
        assert everyone_says(backend, run_id) == {"Cancelled"}

    def test_a_program_of_this_machine_gets_sigterm(
        self, backend: Backend, runs: FlowRuns, sleeper: subprocess.Popen[bytes]
    ) -> None:
        run_id = begin(backend, host=HERE, pid=sleeper.pid, started=time.time() + 1)
        reaping = threading.Thread(target=sleeper.wait)
        reaping.start()
        assert runs.cancel(run_id) == "Cancelled"
        reaping.join()
        assert sleeper.returncode == -15
        assert everyone_says(backend, run_id) == {"Cancelled"}

    def test_another_process_of_that_number_is_left_alone(
        self, backend: Backend, runs: FlowRuns, sleeper: subprocess.Popen[bytes]
    ) -> None:
        run_id = begin(backend, host=HERE, pid=sleeper.pid, started=time.time() - 3600)
        assert runs.view(run_id).state == "Lost"
        assert runs.cancel(run_id) == "Cancelled"
        assert sleeper.poll() is None

    def test_who_keeps_the_lease_is_told_and_ends_it_himself(self, backend: Backend, runs: FlowRuns) -> None:
        run_id = ids.new_id()
        journal = Journal(backend.store, backend.codec, run_id)
        journal.open(1, host="elsewhere", now=time.time())
        lease = backend.flow_runs.lease(run_id, 1, "elsewhere:1:nonce")
        assert lease is not None
        backend.flow_runs.save(run_id, {"state": "RUNNING", "state_name": "Running", "attempt": 1, "host": "elsewhere"})

        def obey() -> None:
            while lease.renew() and not lease.cancel_asked:
                time.sleep(0.01)
            journal.append(AttemptEnd(1, AttemptOutcome.CANCELLED, time.time()))
            journal.close()
            lease.release()

        obeying = threading.Thread(target=obey)
        obeying.start()
        assert runs.cancel(run_id) == "Cancelled"
        obeying.join()
        assert ends(backend, run_id) == ["Cancelled"]
        assert everyone_says(backend, run_id) == {"Cancelled"}

    def test_who_keeps_the_lease_and_does_not_hear_is_waited_for_no_longer_than_asked(
        self, backend: Backend, runs: FlowRuns
    ) -> None:
        run_id = begin(backend)
        assert backend.flow_runs.lease(run_id, 1, "elsewhere:1:nonce") is not None
        assert runs.cancel(run_id, wait=0.0) == "Cancelling"
        assert ends(backend, run_id) == [None]

    def test_two_at_once_are_one(self, backend: Backend, dead: int) -> None:
        run_id = begin(backend, host=HERE, pid=dead)
        answers: list[str] = []

        def cancel() -> None:
            try:
                answers.append(FlowRuns(backend).cancel(run_id))
            except NotPossible as error:
                answers.append(str(error))

        threads = [threading.Thread(target=cancel) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {answer if answer == "Cancelled" else answer.partition(" has ")[2] for answer in answers} <= {
            "Cancelled",
            "ended: Cancelled",
        }
        # One that opened the journal between another's reading and its own repeats that other's end.
        assert {end for end in ends(backend, run_id) if end is not None} == {"Cancelled"}
        assert everyone_says(backend, run_id) == {"Cancelled"}

    @pytest.mark.parametrize("end", ["Completed", "Failed"])
    def test_a_run_that_ended_meanwhile_stays_as_it_ended(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch, end: str
    ) -> None:
        """The end comes between the look at the journal and the opening that fences."""
        run_id = begin(backend)
        before = read_journal(backend.store, backend.codec, run_id)

        def stale(store: Any, codec: Any, run: RunId) -> Any:
            begin(backend, run_id=run, number=2, end=end)
            monkeypatch.undo()
            return replace(before, attempts=(*before.attempts, replace(before.attempts[0], number=2)))

        monkeypatch.setattr(ending, "read_journal", stale)
        assert end_run(backend, run_id, AttemptOutcome.CANCELLED, "stop").end == end
        assert ends(backend, run_id) == [None, end, end]

    @pytest.mark.parametrize("end", ["Completed", "Failed", "Cancelled"])
    def test_one_that_has_ended_is_refused(self, backend: Backend, kapstan, end: str) -> None:
        run_id = begin(backend, end=end)
        answer = kapstan("flow-run", "cancel", uuid(run_id))
        assert f"has ended: {end}" in answer.stderr
        assert ends(backend, run_id) == [end]

    def test_a_subflow_names_its_caller(self, backend: Backend, runs: FlowRuns) -> None:
        parent = begin(backend)
        child = begin(backend, parent=parent)
        for operation in (runs.cancel, runs.resume, runs.delete):
            with pytest.raises(NotPossible, match=uuid(parent)):
                operation(child)


class TestLost:
    def test_a_run_whose_process_is_gone_says_so_and_what_to_do(self, backend: Backend, kapstan, dead: int) -> None:
        run_id = begin(backend, host=HERE, pid=dead)
        (listed,) = json.loads(kapstan("flow-run", "ls", "-o", "json").stdout)
        assert (listed["state"], listed["type"], listed["took"]) == ("Lost", "CRASHED", None)
        assert listed["why"] == f"its process is gone; go on with kapstan flow-run resume {uuid(run_id)}"
        assert json.loads(kapstan("flow-run", "inspect", uuid(run_id), "-o", "json").stdout)["state"] == "Lost"
        listed = json.loads(kapstan("flow-run", "ls", "--state", "lost", "-o", "json").stdout)
        assert [run["run_id"] for run in listed] == [run["id"] for run in listed] != []

    def test_a_lease_that_ran_out_tells_of_any_machine(self, backend: Backend) -> None:
        quick = Backend(replace(backend.settings, lease_seconds=0.2, beat_seconds=0.05))
        run_id = begin(quick)
        assert quick.flow_runs.lease(run_id, 1, "elsewhere:1:x") is not None
        runs = FlowRuns(quick)
        assert runs.view(run_id).state == "Running"
        deadline = time.monotonic() + 20
        while runs.view(run_id).state != "Lost":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert runs.resume(run_id).attempt == 2
        quick.close()

    def test_what_cannot_be_known_here_runs(self, backend: Backend, runs: FlowRuns) -> None:
        assert runs.view(begin(backend)).state == "Running"

    def test_a_subflow_is_lost_with_its_caller(self, backend: Backend, runs: FlowRuns, dead: int) -> None:
        child = begin(backend, parent=begin(backend), host=HERE, pid=dead)
        assert runs.view(child).state == "Lost"


class TestResumeAndRetry:
    def test_what_to_start(self, backend: Backend, runs: FlowRuns, dead: int) -> None:
        lost, failed, handed = (
            begin(backend, host=HERE, pid=dead),
            begin(backend, end="Failed"),
            begin(backend, end="HandedBack"),
        )
        for run_id, again in ((lost, False), (failed, True), (handed, False)):
            start = runs.resume(run_id)
            assert (start.run_id, start.attempt, start.again) == (run_id, 2, again)
        assert runs.retry(failed).again

    def test_a_cancelled_run_goes_on_when_a_person_wants_it(self, backend: Backend, runs: FlowRuns, dead: int) -> None:
        run_id = begin(backend, host=HERE, pid=dead)
        runs.cancel(run_id)
        start = runs.retry(run_id)
        assert (start.attempt, start.again) == (3, True)
        lease = backend.flow_runs.lease(run_id, start.attempt, "x")
        assert lease is not None
        assert lease.renew()
        assert not lease.cancel_asked

    def test_what_cannot(self, backend: Backend, runs: FlowRuns) -> None:
        with pytest.raises(NotPossible, match="is Completed already"):
            runs.retry(begin(backend, end="Completed"))
        with pytest.raises(NotPossible, match="is Running: it has not ended"):
            runs.retry(begin(backend))
        running = begin(backend)
        lease = backend.flow_runs.lease(running, 1, f"{HERE}:7:x")
        assert lease is not None
        with pytest.raises(NotPossible, match=f"is at work in process 7 on {HERE}; --force"):
            runs.resume(running)
        assert runs.resume(running, force=True).attempt == 2
        with pytest.raises(NotPossible, match="belongs to deployment 'nightly'"):
            runs.resume(begin(backend, end="Failed", deployment="nightly"))


class TestDelete:
    def test_nothing_is_left(self, backend: Backend, runs: FlowRuns, kapstan) -> None:
        run_id = begin(backend, end="Completed")
        backend.store.put(f"values/{run_id}/x", b"large")
        assert kapstan("flow-run", "delete", uuid(run_id)).exit_code == 0
        assert list(backend.store.keys("")) == []
        assert runs.history(run_id).attempts == ()
        with pytest.raises(NotFound, match="there is no flow run"):
            runs.find(uuid(run_id))

    def test_a_run_that_has_not_ended_stays(self, backend: Backend, runs: FlowRuns) -> None:
        for run_id in (begin(backend), begin(backend, end="HandedBack")):
            with pytest.raises(NotPossible, match="has not ended: cancel it before you delete it"):
                runs.delete(run_id)
            assert len(runs.history(run_id).attempts) == 1


class TestFinding:
    def test_by_name_beginning_and_id(self, backend: Backend, runs: FlowRuns, kapstan) -> None:
        one = begin(backend, name="spry-petrel")
        other = begin(backend, name="tidy-hawk")
        assert runs.find("spry-petrel") == runs.find(uuid(one)) == runs.find(one) == runs.find(uuid(one)[:-1]) == one
        assert "several flow runs" in kapstan("flow-run", "inspect", uuid(other)[:8]).stderr
        for text in ("nobody", uuid(ids.new_id()), "-0cX5EH88stuKJPy-D42pl"):
            for operation in ("inspect", "cancel", "resume", "retry", "delete"):
                answer = kapstan("flow-run", operation, text)
                assert answer.exit_code != 0
                assert "flow run" in answer.stderr, (operation, text, answer.stderr)

    def test_by_filters_a_page_at_a_time(self, backend: Backend, runs: FlowRuns) -> None:
        made = [
            begin(backend, flow=flow, tags=[flow], name=f"a-{number}") for number, flow in enumerate(["a", "b"] * 3)
        ]
        for chosen in (FlowRunFilter(flow="b"), FlowRunFilter(tag="b"), FlowRunFilter(flow="b", name="a-")):
            found: list[str] = []
            cursor: str | None = ""
            while cursor is not None:
                page = runs.page(chosen, 2, cursor)
                found += [run.id for run in page.runs]
                cursor = page.cursor
            assert found == [uuid(run_id) for run_id in made[1::2][::-1]]
        assert runs.page(FlowRunFilter(since=time.time() + 60), 10).runs == []
        assert runs.page(FlowRunFilter(until=time.time() - 60), 10).runs == []
        assert len(runs.page(FlowRunFilter(states=frozenset({"Running"})), 10).runs) == 6

    def test_a_page_reads_a_bounded_number(self, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kapstan.runs.flow_runs.SCANNED", 20)
        for number in range(30):
            backend.flow_runs.save(ids.new_id(), {"state": "COMPLETED", "name": f"n-{number}"})
        page = FlowRuns(backend).page(FlowRunFilter(name="none"), 5)
        assert (page.runs, page.cursor is None, page.searched_until is None) == ([], False, False)
        rest = FlowRuns(backend).page(FlowRunFilter(name="none"), 5, page.cursor or "")
        assert (rest.runs, rest.cursor) == ([], None)


def test_a_summary_that_cannot_be_read_is_told_from_the_journal(
    backend: Backend, kapstan, shared_server: RedisServer
) -> None:
    run_id = begin(backend, end="Failed")
    with shared_server.client() as client:
        client.set(f"{{{backend.settings.namespace}}}:f:{run_id}", b"\xff{")
    (listed,) = json.loads(kapstan("flow-run", "ls", "-o", "json").stdout)
    assert (listed["state"], listed["why"]) == ("Unknown", "its summary is gone or cannot be read")
    assert json.loads(kapstan("flow-run", "inspect", uuid(run_id), "-o", "json").stdout)["state"] == "Failed"


def test_a_redis_that_is_away_is_one_line(backend: Backend, kapstan, tmp_path) -> None:
    run_id = begin(backend)
    backends.use(replace(backend.settings, redis_url=f"unix://{tmp_path}/nobody.sock", redis_retry_seconds=0.2))
    for operation in ("inspect", "cancel", "resume", "retry", "delete"):
        answer = kapstan("flow-run", operation, uuid(run_id))
        assert answer.exit_code != 0
        assert "nobody.sock" in answer.stderr
        assert answer.stderr.count("\n") == 1
    assert ends(backends.current(), run_id) == [None]
