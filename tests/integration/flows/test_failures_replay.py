"""A resumed flow catches what its first attempt caught."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kapstan.ids import new_id, to_uuid

PROGRAM = """
import os, threading
from kapstan import flow, task

class Declined(Exception):
    def __init__(self, code, *, text):
        super().__init__(f"{code}: {text}")
        self.code = code

class Locky(Exception):
    def __init__(self):
        super().__init__("holds a lock")
        self.lock = threading.Lock()

def local():
    class Local(Exception): ...
    return Local

LOCAL = local()

@task
def charge(kind):
    say(f"try {kind}")
    raise {"declined": Declined(51, text="no funds"), "lock": Locky(), "local": LOCAL("x"),
           "group": ExceptionGroup("g", [Declined(1, text="a"), KeyError("k")])}[kind]

def say(text):
    with open("effects", "a") as file:
        file.write(text + "\\n")

@flow
def main():
    for kind in ("declined", "lock", "local", "group"):
        try:
            charge(kind)
        except Declined as error:
            say(f"way declined {error.code}")
        except Locky as error:
            say(f"way lock {hasattr(error, 'lock')}")
        except LOCAL:
            say("way local")
        except ExceptionGroup as error:
            say(f"way group {[type(one).__name__ for one in error.exceptions]}")
        except Exception as error:
            say(f"way {type(error).__name__}")
    if not os.path.exists("crashed"):
        open("crashed", "w").close()
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("pickles", ["true", "false"])
def test_both_attempts_take_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pickles: str) -> None:
    (tmp_path / "shop.py").write_text(PROGRAM)
    monkeypatch.setenv("KAPSTAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAPSTAN_ALLOW_PICKLE", pickles)
    run_id = str(to_uuid(new_id()))
    codes: list[int] = []
    for attempt in ("1", "2"):
        command = ["run", "shop.py:main", "--run-id", run_id, "--attempt", attempt]
        done = subprocess.run(
            [sys.executable, "-m", "kapstan", *command], cwd=tmp_path, capture_output=True, check=False
        )
        codes.append(done.returncode)
    said = (tmp_path / "effects").read_text().splitlines()
    assert codes[1] == 0
    assert [line for line in said if line.startswith("try")] == ["try declined", "try lock", "try local", "try group"]
    ways = [line for line in said if line.startswith("way")]
    assert ways[:4] == ways[4:]
    if pickles == "true":
        kept = ["way declined 51", "way lock False", "way RunFailed", "way group ['Declined', 'KeyError']"]
        assert ways[:4] == kept
