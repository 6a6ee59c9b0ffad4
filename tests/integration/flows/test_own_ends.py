"""How a flow's process ends: by its own doing, which is recorded and not started again; by a signal, at once and with
everything that it started."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from tests.integration.flows.conftest import Runs

from kapstan import ids
from kapstan.ids import new_id

pytestmark = pytest.mark.parametrize("runs", ["local"], indirect=True)
FLOWS = Path(__file__).with_name("own_ends.py")


def command(flow: str, run_id: str) -> list[str]:
    return ["run", f"{FLOWS}:{flow}", "--run-id", str(ids.to_uuid(run_id)), "--attempt", "1", "--parameters", "{}"]


@pytest.mark.parametrize("flow", ["leaves", "interrupts_itself", "raises_odd", "cancels_itself"])
def test_what_a_flow_does_to_itself_is_its_failure_and_no_hand_back(runs: Runs, flow: str) -> None:
    run_id = new_id()
    assert runs.command(command(flow, run_id)).ends() == 1
    assert runs.ends(run_id) == ["Failed"]


GONE_BEFORE_IT_BEGINS = """
import os, signal, sys
from kapstan.worker import flow_process

class Lease(flow_process._Lease):
    def __init__(self, attempt, child):
        super().__init__(attempt, child)
        os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)

flow_process._Lease = Lease
flow_process.execute(flow_process.Attempt(sys.argv[1], 1, "flows.py:never"), lambda: None)
"""


def test_a_process_that_ends_before_it_may_begin_is_no_fault_of_its_supervisor(runs: Runs) -> None:
    """It is killed, or told to go, while the lease of the run is taken."""
    attempt = runs.python(["-c", GONE_BEFORE_IT_BEGINS, new_id()])
    assert attempt.ends() == 137, attempt.errors


def test_a_module_that_leaves_while_it_is_imported_is_a_failure(runs: Runs, tmp_path: Path) -> None:
    module = tmp_path / "leaving.py"
    module.write_text("import sys\nsys.exit(3)\n")
    run_id = new_id()
    arguments = [f"{module}:main", "--run-id", str(ids.to_uuid(run_id)), "--attempt", "1", "--parameters", "{}"]
    assert runs.command(["run", *arguments]).ends() == 1
    assert runs.ends(run_id) == ["Failed"]


def test_what_a_flow_has_started_ends_with_its_attempt(runs: Runs) -> None:
    attempt = runs.command(command("starts_a_daemon", new_id()), gate=True)
    attempt.reached()
    attempt.terminate()
    assert attempt.ends() == 75  # not before the pipes of its output are closed, which the daemon has
    assert runs.effects == []


@pytest.mark.parametrize("how", ["a script", "kapstan run"])
def test_ctrl_c_ends_at_once_while_submitted_work_runs(runs: Runs, how: str) -> None:
    arguments = ["-m", "kapstan", *command("submits", new_id())] if how == "kapstan run" else [str(FLOWS)]
    attempt = runs.python(arguments, gate=True)
    attempt.reached()
    began = time.monotonic()
    os.kill(attempt.pid, signal.SIGINT)
    attempt.ends()
    assert time.monotonic() - began < 10.0  # 0.1 s on an idle machine; the task takes 30
    assert "Go on with: kapstan flow-run resume" in attempt.errors


@pytest.mark.parametrize(("code", "shown"), [(0, 70), (1, 70), (2, 70), (75, 70), (3, 3)])
def test_an_exit_code_of_user_code_never_says_what_is_not_recorded(runs: Runs, code: int, shown: int) -> None:
    run_id = new_id()
    asked = ["run", f"{FLOWS}:exits_at_once", "--run-id", str(ids.to_uuid(run_id)), "-p", f"code={code}"]
    assert runs.command(asked).ends() == shown
    assert runs.ends(run_id) == [None]


def test_a_flow_that_closes_every_file_keeps_its_journal(runs: Runs) -> None:
    run_id = new_id()
    asked = ["run", f"{FLOWS}:closes_every_file", "--run-id", str(ids.to_uuid(run_id))]
    assert runs.command(asked).ends() == 0
    assert runs.effects == ["step 0", "step 1"]
    assert runs.ends(run_id) == ["Completed"]


def test_what_kapstan_run_began_goes_on_by_resume(runs: Runs) -> None:
    run_id = new_id()
    asked = ["run", f"{FLOWS}:three_steps", "--run-id", str(ids.to_uuid(run_id))]
    first = runs.command(asked)
    assert first.ends() == 70
    assert f"go on with: kapstan flow-run resume {run_id}" in first.errors
    assert runs.command(["flow-run", "resume", run_id]).ends() == 0
    assert runs.effects == ["step 0", "step 1", "step 2"]
    assert runs.ends(run_id) == [None, "Completed"]


def test_a_run_that_never_loaded_names_the_command_that_goes_on(runs: Runs, tmp_path: Path) -> None:
    module = tmp_path / "broken.py"
    module.write_text("raise ValueError('not yet')\n")
    name = str(ids.to_uuid(run_id := new_id()))
    assert runs.command(["run", f"{module}:main", "--run-id", name]).ends() == 1
    resumed = runs.command(["flow-run", "resume", run_id])
    assert resumed.ends() == 2
    assert f"go on with: kapstan run ENTRYPOINT --run-id {name} --attempt 2 --again" in resumed.errors


def test_a_key_that_cannot_be_is_one_line(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAPSTAN_SIGNING_KEY", "abc")
    attempt = runs.command(command("leaves", new_id()))
    assert attempt.ends() == 2
    assert "KAPSTAN_SIGNING_KEY: each key must be base64" in attempt.errors
    assert "Traceback" not in attempt.errors


@pytest.mark.parametrize(
    ("entrypoint", "why"),
    [
        ("no_such_module_of_ours:main", "no_such_module_of_ours"),
        ("no_such_file.py:main", "no_such_file.py"),
        (f"{FLOWS}:no_such_flow", "no_such_flow is no flow of"),
        (f"{FLOWS}:note", "note is no flow of"),
    ],
)
def test_a_flow_that_cannot_be_loaded_is_a_recorded_failure(runs: Runs, entrypoint: str, why: str) -> None:
    run_id = new_id()
    attempt = runs.command(["run", entrypoint, "--run-id", str(ids.to_uuid(run_id))])
    assert attempt.ends() == 1
    assert runs.ends(run_id) == ["Failed"]
    assert why in runs.records.attempts(run_id)[0].end.message


def test_an_entrypoint_of_another_form_is_a_wrong_command_line(runs: Runs) -> None:
    run_id = new_id()
    attempt = runs.command(["run", "no_flow_named", "--run-id", str(ids.to_uuid(run_id))])
    assert attempt.ends() == 2
    assert runs.ends(run_id) == []
    assert "give module:flow or file.py:flow" in attempt.errors
