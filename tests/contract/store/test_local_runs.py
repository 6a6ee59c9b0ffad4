"""What is particular to flow runs in files: a lease ends with its process, also where a fork lives on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kapstan.ids import RunId, new_id
from kapstan.store.local_runs import LocalFlowRuns


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "flow-runs"


@pytest.fixture
def runs(root: Path) -> LocalFlowRuns:
    return LocalFlowRuns(root)


def test_a_higher_attempt_takes_the_lease_from_a_lower_one_at_once(runs: LocalFlowRuns) -> None:
    run = new_id()
    first = runs.lease(run, 1, "a")
    assert first is not None
    assert first.renew()
    second = runs.lease(run, 2, "b")
    assert second is not None
    assert (first.renew(), second.renew()) == (False, True)
    assert runs.lease(run, 2, "c") is None
    assert runs.lease(run, 1, "c") is None
    first.release()
    assert second.renew()
    second.release()
    assert not second.renew()
    again = runs.lease(run, 2, "d")
    assert again is not None
    again.release()


@pytest.fixture
def holder(root: Path) -> Iterator[tuple[RunId, subprocess.Popen[str]]]:
    """Another process, which holds attempt 3 of a run and has a forked child that sleeps."""
    run = new_id()
    program = """
import os, sys, time
from pathlib import Path
from kapstan.store.local_runs import LocalFlowRuns
lease = LocalFlowRuns(Path(sys.argv[1])).lease(sys.argv[2], 3, "other")
child = os.fork()
if child == 0:  # said by the child: by then it holds nothing of its parent's
    print(os.getpid(), flush=True)
    os.close(1)
    time.sleep(100)
    os._exit(0)
time.sleep(100)
"""
    command = [sys.executable, "-c", program, str(root), run]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "operator")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        yield run, process
        process.kill()
        os.kill(child, 9)


def test_a_lease_ends_with_its_process_though_a_forked_child_lives(
    runs: LocalFlowRuns, holder: tuple[RunId, subprocess.Popen[str]]
) -> None:
    run, process = holder
    assert runs.lease(run, 3, "me") is None
    process.kill()
    process.wait()
    lease = runs.lease(run, 1, "me")
    assert lease is not None
    lease.release()


def test_summaries_are_replaced_and_listed_newest_first(runs: LocalFlowRuns) -> None:
    ids = [new_id() for _ in range(5)]
    assert runs.load(ids[0]) is None
    for run in ids:
        runs.save(run, {"state": "RUNNING"})
    runs.save(ids[1], {"state": "COMPLETED", "name": "é"})
    assert runs.load(ids[1]) == {"state": "COMPLETED", "name": "é", "run_id": ids[1]}
    assert [summary["run_id"] for summary in runs.recent(3)] == [ids[4], ids[3], ids[2]]


def test_those_who_watch_are_told_of_every_run_that_changes(runs: LocalFlowRuns, root: Path) -> None:
    old, new = new_id(), new_id()
    runs.save(old, {"state": "RUNNING"})
    told: list[RunId] = []
    changed = threading.Condition()
    stop = threading.Event()
    watching = threading.Event()

    def tell(run: RunId) -> None:
        with changed:
            told.append(run)
            changed.notify_all()

    def stopped() -> bool:
        watching.set()
        return stop.is_set()

    watcher = threading.Thread(target=LocalFlowRuns(root).watch, args=(tell, stopped), daemon=True)
    watcher.start()
    assert watching.wait(10)
    with changed:
        for count, run in enumerate((new, old, old), 1):
            runs.save(run, {"state": "COMPLETED"})
            assert changed.wait_for(lambda count=count: len(told) >= count, 10), told
    stop.set()
    watcher.join(10)
    assert told == [new, old, old]
