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
