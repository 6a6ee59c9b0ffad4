"""A process that the code of a run forks and that comes back into the run: it ends with one line, and the run goes on
as if there had been none."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.flows.conftest import Runs

from kapstan import ids
from kapstan.ids import new_id

pytestmark = pytest.mark.parametrize("runs", ["local"], indirect=True)
FLOWS = Path(__file__).with_name("forking.py")
LINE = "A process that the code of a run has forked"
CAME_BACK, CALLED, ENDED_0, ENDED_1 = "came back into it", "called", "child ended with 0", "child ended with 1"

CASES: dict[str, tuple[str, list[str]]] = {
    "returns": (CAME_BACK, ["before", ENDED_0]),
    "raises": ("came back into it with KeyError", [ENDED_1]),
    "calls": ("called task after", [ENDED_1, "after"]),
    "submits": ("called after.submit()", [ENDED_1, "after"]),
    "calls_a_flow": ("called flow inner", [ENDED_1, "after"]),
    "in_a_task": (CAME_BACK, ["child's own work", ENDED_0, "after"]),
    "in_a_submitted_task": (CAME_BACK, ["child's own work", ENDED_0, "after"]),
    "returns_async": (CAME_BACK, [ENDED_0]),
    "calls_async": ("called task after_async", [ENDED_1, "after"]),
    "sleeps_async": ("came back into it with RuntimeError: no running event loop", [ENDED_1, "after"]),
    "lets_the_loop_go_on": (CAME_BACK, ["sibling 0", ENDED_0, "sibling 1", "sibling 2"]),
    "in_an_async_task": (CAME_BACK, [ENDED_0, "after"]),
    "in_a_condition": (CAME_BACK, ["run 1", ENDED_0, "run 2", "after"]),
}


@pytest.mark.parametrize("shape", sorted(CASES))
def test_it_ends_with_one_line_and_the_run_completes(runs: Runs, shape: str) -> None:
    said, effects = CASES[shape]
    run_id = new_id()
    attempt = runs.command(["run", f"{FLOWS}:{shape}", "--run-id", str(ids.to_uuid(run_id))])
    assert attempt.ends() == 0, attempt.errors
    assert runs.effects == effects
    assert runs.ends(run_id) == ["Completed"]
    (line,) = [line for line in attempt.errors.splitlines() if LINE in line]
    assert said in line
    assert "Traceback" not in attempt.errors or shape == "in_a_condition"
    assert attempt.errors.count("Created flow run") == 1


def test_an_exit_of_its_own_is_an_end_like_any_other(runs: Runs) -> None:
    run_id = new_id()
    attempt = runs.command(["run", f"{FLOWS}:exits", "--run-id", str(ids.to_uuid(run_id))])
    assert attempt.ends() == 0
    assert runs.effects == ["child ended with 7"]
    assert runs.ends(run_id) == ["Completed"]
    assert LINE not in attempt.errors


def test_a_child_of_multiprocessing_may_call_tasks(runs: Runs) -> None:
    run_id = new_id()
    attempt = runs.command(["run", f"{FLOWS}:multiprocesses", "--run-id", str(ids.to_uuid(run_id))])
    assert attempt.ends() == 0
    assert runs.effects == ["in the child", ENDED_0, "after"]
    assert runs.ends(run_id) == ["Completed"]
    assert attempt.errors.count("its outcome is not recorded") == 1
    assert LINE not in attempt.errors
