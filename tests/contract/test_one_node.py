"""One node of our own at a time on a machine, and one test run at a time on a cluster, however the one before ended."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cluster import machine, provider
from tests.cluster.errors import ClusterUnavailable
from tests.cluster.progress import Progress
from tests.cluster.state import Record, State

RUN = """
import subprocess, sys
from pathlib import Path
from tests.cluster import machine
from tests.cluster.state import State

with machine.turn(State(Path(sys.argv[1])), print, print, lock=Path(sys.argv[2])) as lock:
    node = subprocess.Popen(["cat"], stdin=sys.stdin, pass_fds=(lock,))
print(node.pid, flush=True)
sys.stdin.read()
"""
"""A run whose node is `cat`: it inherits the lock, and ends with its input."""


class Machine:
    def __init__(self, folder: Path) -> None:
        self.lock = folder / "lock"
        self.mine, self.other = State(folder / "mine"), State(folder / "other")
        self.notes: list[str] = []
        self.ended: list[State] = []

    def other_node(self) -> subprocess.Popen[str]:
        """Of a run that is killed with -9 once its node is up."""
        node = subprocess.Popen(
            [sys.executable, "-c", RUN, str(self.other.root), str(self.lock)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert node.stdout is not None
        assert node.stdout.readline().strip().isdigit()
        node.kill()
        node.wait()
        return node

    @contextmanager
    def turn(self, patience: float = 30) -> Iterator[int]:
        with machine.turn(
            self.mine, self.notes.append, self.ended.append, lock=self.lock, patience=patience, pause=0.02
        ) as lock:
            yield lock


@pytest.fixture
def on(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def end(node: subprocess.Popen[str]) -> None:
    assert node.stdin is not None
    assert node.stdout is not None
    node.stdin.close()
    node.stdout.close()


def test_the_second_waits_until_the_first_node_has_ended(on: Machine) -> None:
    node = on.other_node()
    try:
        with pytest.raises(ClusterUnavailable, match=f"another node has run .*{on.other.root}"), on.turn(patience=0.1):
            pass
        assert on.notes == [f"another node runs on this machine: waiting (its state: {on.other.root})"]
        assert on.ended == []
        timer = threading.Timer(0.2, end, (node,))
        timer.start()
        with on.turn():
            timer.join()
            assert on.lock.read_text() == str(on.mine.root)
    finally:
        end(node)


def test_a_node_whose_run_is_dead_is_ended(on: Machine) -> None:
    node = on.other_node()
    try:
        on.other.write(Record("node", kept=False, ready=True))
        used = on.other.join()
        with pytest.raises(ClusterUnavailable), on.turn(patience=0):
            pass
        assert on.ended == []
        os.close(used)
        with pytest.raises(ClusterUnavailable), on.turn(patience=0):
            pass
        assert on.ended == [on.other]
    finally:
        end(node)


def test_a_node_that_a_person_keeps_is_named_at_once(on: Machine) -> None:
    node = on.other_node()
    try:
        on.other.write(Record("node", kept=True, ready=True))
        with (
            pytest.raises(ClusterUnavailable, match=f"KAPSTAN_TEST_STATE={on.other.root} make cluster-down"),
            on.turn(),
        ):
            pass
        assert on.ended == []
    finally:
        end(node)


def test_a_free_machine_is_taken_at_once_and_given_back(on: Machine) -> None:
    for _ in range(2):
        with on.turn(patience=0):
            pass
    assert on.notes == []


def test_two_runs_do_not_share_a_cluster(on: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    used = on.mine.join()
    try:
        with pytest.raises(ClusterUnavailable, match=f"another test run has used the cluster of {on.mine.root}"):
            provider.enter(on.mine, False, Progress(), patience=0)
    finally:
        os.close(used)
    assert "another test run uses the cluster: waiting" in capsys.readouterr().err
