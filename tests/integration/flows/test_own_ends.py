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
