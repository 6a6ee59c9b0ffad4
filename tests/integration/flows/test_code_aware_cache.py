"""A cached result is used by later processes as long as the code stays the same, and never by another task."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HELPERS = "RATE = 2\n\ndef rated(amount):\n    return amount * RATE\n"
MAIN = """
from kapstan import flow, task
from kapstan.cache_policies import INPUTS, TASK_SOURCE
from shop.helpers import rated

ran = []

@task(cache_policy=INPUTS + TASK_SOURCE)
def price(amount):
    ran.append(f"price {amount}")
    return rated(amount)

@task(cache_policy=INPUTS)
def opening():
    ran.append("opening")
    return 8

@task(cache_policy=INPUTS)
def closing():
    ran.append("closing")
    return 18

@flow
def day():
    states = [price(3, return_state=True), price(3, return_state=True), price(4, return_state=True)]
    return [state.name for state in states], [state.result() for state in states], opening(), closing()

print(*day(), ran, price(3), sep="|")
"""


class Shop:
    """A program in a folder; each run of it is a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._homes = {**os.environ, "KAPSTAN_HOME": str(folder / "home"), "KAPSTAN_LOG_LEVEL": "ERROR"}
        # Python tells a changed file by its second and size, and the test is quicker than that.
        self._homes["PYTHONDONTWRITEBYTECODE"] = "1"
        (folder / "shop").mkdir()
        self.write(HELPERS)
        (folder / "shop" / "main.py").write_text(MAIN)

    def write(self, helpers: str) -> None:
        (self._folder / "shop" / "helpers.py").write_text(helpers)

    def run(self, *how: str) -> list[str]:
        command = [sys.executable, *(how or ("-m", "shop.main"))]
        done = subprocess.run(command, cwd=self._folder, env=self._homes, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1].split("|")


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


ALL = "['price 3', 'price 4', 'opening', 'closing']"
HITS = "['Cached', 'Cached', 'Cached']"


def test_the_next_process_uses_what_this_one_has_computed(shop: Shop) -> None:
    assert shop.run() == ["['Completed', 'Cached', 'Completed']", "[6, 6, 8]", "8", "18", ALL, "6"]
    assert shop.run() == [HITS, "[6, 6, 8]", "8", "18", "[]", "6"]
    assert shop.run("-O", "-c", "import shop.main") == [HITS, "[6, 6, 8]", "8", "18", "[]", "6"]


def test_a_comment_keeps_it_and_a_helpers_constant_does_not(shop: Shop) -> None:
    shop.run()
    shop.write(HELPERS.replace("def rated", "# Twice.\n\n\ndef rated"))
    assert shop.run()[4] == "[]"
    shop.write(HELPERS.replace("RATE = 2", "RATE = 5"))
    assert shop.run() == [
        "['Completed', 'Cached', 'Completed']",
        "[15, 15, 20]",
        "8",
        "18",
        "['price 3', 'price 4']",
        "15",
    ]
    shop.write(HELPERS)
    assert shop.run() == [HITS, "[6, 6, 8]", "8", "18", "[]", "6"]
