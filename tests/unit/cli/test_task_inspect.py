"""``kapstan task inspect``: what makes up the keys of a task."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
from datetime import timedelta
from kapstan import task
from kapstan.cache_policies import INPUTS, RUN_ID, TASK_SOURCE, CachePolicy

known = {}
RATE = 3

def add(a, b):
    known[a] = b
    return a + b * RATE

@task(cache_policy=(INPUTS - "session") + TASK_SOURCE, cache_expiration=timedelta(hours=1))
def price(amount, session=None):
    return add(amount, 1)

@task
def plain(): ...

@task(cache_key_fn=lambda context, parameters: parameters["amount"] / 0)
def broken(amount): ...
"""


@pytest.fixture
def inspect(tmp_path: Path) -> Any:
    (tmp_path / "shopping.py").write_text(PROGRAM)

    def run(*arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "kapstan", "task", "inspect", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    return run


def test_it_shows_identity_policy_parts_and_code(inspect: Any) -> None:
    told = json.loads(inspect("shopping:price", "-o", "json", "-p", "amount=3"))
    assert told["identity"] == "shopping:price"
    assert told["policy"] == "(INPUTS - 'session' + TASK_SOURCE)"
    assert told["expires"] == "after 1:00:00"
    assert told["parts"] == {
        "identity": "shopping:price",
        "INPUTS": "amount; left out: session",
        "TASK_SOURCE": told["fingerprint"],
    }
    assert {(part["kind"], part["name"]) for part in told["code"]} == {
        ("function", "shopping:price"),
        ("function", "shopping:add"),
        ("variable", "known in shopping:add"),
        ("constant", "RATE in shopping:add"),
        ("constant", "default of session in shopping:price"),
    }
    assert len(told["key"]) == 52
    again = json.loads(inspect("shopping.py:price", "-o", "json", "-p", "amount=3", "-p", "session=x"))
    assert (again["key"], again["fingerprint"]) == (told["key"], told["fingerprint"])
    text = inspect("shopping:price")
    for line in ("identity:    shopping:price", "  INPUTS           amount; left out: session"):
        assert line in text
    assert "the program changes it while it runs" in text


def test_it_says_why_there_is_no_key(inspect: Any) -> None:
    assert "policy:      none: no two calls share a result" in inspect("shopping:plain")
    told = inspect("shopping:broken", "-p", "amount=3")
    assert "key:         none can be made: task broken: CacheKeyFnPolicy(<lambda>) raised ZeroDivisionError" in told
    assert "none is no task of shopping; its tasks: broken, plain, price" in inspect("shopping:none", code=2)
    assert "missing a required argument: 'amount'" in inspect("shopping:price", "-p", "session=1", code=1)
