"""A script that is killed and resumed: its classes, parameters and tasks have the same names in both processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import dataclasses, enum, os, signal
from kapstan import flow, task

class Size(enum.Enum):
    S = 1

@dataclasses.dataclass
class Order:
    user: str
    size: Size

class Declined(Exception): ...

def say(text):
    with open("effects", "a") as file:
        file.write(text + "\\n")

@task
def charge(order):
    say("charge")
    return order

@task
def refuse():
    say("refuse")
    raise Declined("no")

@flow
def main(order):
    say(f"parameter {isinstance(order, Order)} {order.size is Size.S}")
    back = charge(order)
    say(f"result {isinstance(back, Order)} {back.size is Size.S}")
    try:
        refuse()
    except Declined:
        say("declined")
    if not os.path.exists("crashed"):
        open("crashed", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    main(Order("ann", Size.S))
"""


@pytest.mark.parametrize("place", ["shop.py", "jobs/shop.py", "src/pack/shop.py"])
def test_nothing_changes_its_name(tmp_path: Path, place: str) -> None:
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(PROGRAM)
    if "pack" in place:
        (file.parent / "__init__.py").touch()
    environ = {**os.environ, "KAPSTAN_HOME": str(tmp_path / "home")}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, *command]
        return subprocess.run(arguments, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)

    assert run(place).returncode == -9
    listed = json.loads(run("-m", "kapstan", "flow-run", "ls", "-o", "json").stdout)
    runs = listed["runs"] if isinstance(listed, dict) else listed
    run_id = runs[0].get("id") or runs[0]["run_id"]
    resumed = run("-m", "kapstan", "flow-run", "resume", "--force", run_id)
    assert resumed.returncode == 0, resumed.stderr
    said = (tmp_path / "effects").read_text().splitlines()
    once = ["parameter True True", "result True True", "declined"]
    assert [line for line in said if line not in ("charge", "refuse")] == once * 2
    assert sorted(line for line in said if line in ("charge", "refuse")) == ["charge", "refuse"]


STARTED = """
import os, signal
from kapstan import flow, task

@task
def add(x, by):
    with open("effects", "a") as file:
        file.write(f"add {x} {by}\\n")
    return x + by

@flow
def main(n: int, by: int = 1):
    total = sum(add(x, by) for x in range(n))
    if not os.path.exists("crashed"):
        open("crashed", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    print("total", total)
"""


def test_what_kapstan_run_began_goes_on_without_a_cluster(tmp_path: Path) -> None:
    """No FlowRun, no kubeconfig: the run itself says what it executes, from whatever folder it is resumed."""
    (tmp_path / "begun.py").write_text(STARTED)
    environ = {**os.environ, "KAPSTAN_HOME": str(tmp_path / "home"), "KUBECONFIG": str(tmp_path / "none")}
    (tmp_path / "elsewhere").mkdir()

    def kapstan(*command: str, folder: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-m", "kapstan", *command]
        return subprocess.run(arguments, cwd=folder, env=environ, capture_output=True, text=True, check=False)

    begun = kapstan("run", "begun.py:main", "-p", "n=3", "-p", "by=2")
    assert begun.returncode != 0
    run_id = json.loads(kapstan("flow-run", "ls", "-o", "json").stdout)[0]["id"]
    resumed = kapstan("flow-run", "resume", run_id, folder=tmp_path / "elsewhere")
    assert (resumed.returncode, resumed.stdout) == (0, "total 9\n"), resumed.stderr
    assert (tmp_path / "effects").read_text().splitlines() == ["add 0 2", "add 1 2", "add 2 2"]


def test_a_run_that_says_nothing_of_itself_names_the_way_on(tmp_path: Path) -> None:
    """Begun by an older release, or its definition was deleted."""
    (tmp_path / "begun.py").write_text(STARTED)
    environ = {**os.environ, "KAPSTAN_HOME": str(tmp_path / "home")}

    def kapstan(*command: str) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-m", "kapstan", *command]
        return subprocess.run(arguments, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)

    kapstan("run", "begun.py:main", "-p", "n=1")
    for definition in (tmp_path / "home").rglob("definitions/*"):
        definition.unlink()
    run_id = json.loads(kapstan("flow-run", "ls", "-o", "json").stdout)[0]["id"]
    told = kapstan("flow-run", "resume", run_id)
    assert told.returncode == 2
    way_on = f"kapstan run ENTRYPOINT --run-id {run_id} --attempt 2"
    assert way_on in told.stderr
    going = kapstan(*way_on.replace("ENTRYPOINT", "begun.py:main").split()[1:], "-p", "n=1")
    assert (going.returncode, going.stdout) == (0, "total 1\n"), going.stderr
