"""What files, scripts and functions are called where other processes must find them."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kapstan import identity
from kapstan.errors import ConfigurationError

PROGRAM = """
from kapstan.identity import doubt_about_main, identity_of
def f(): ...
print(identity_of(f, None), bool(doubt_about_main()))
"""


def charge() -> None: ...


class Scale:
    def __call__(self) -> None: ...


def test_an_identity_is_module_and_qualname_or_the_explicit_name() -> None:
    assert identity.identity_of(charge, None) == f"{__name__}:charge"
    assert identity.identity_of(charge, "pay") == "pay"
    with pytest.raises(ConfigurationError, match="at most 200 bytes"):
        identity.identity_of(charge, "a|b")


def test_what_other_processes_cannot_find_is_told() -> None:
    def local() -> None: ...

    told = {"lambda": lambda: None, "local function": local, "an object": Scale(), "object": functools.partial(charge)}
    for what, fn in told.items():
        assert what in identity.unfindable(identity.identity_of(fn, None), fn)
        assert identity.unfindable("pay", fn) == ""
    assert identity.unfindable(identity.identity_of(charge, None), charge) == ""


@pytest.mark.parametrize(
    ("arguments", "path", "packages", "expected"),
    [
        (["tasks.py"], "", "", "tasks:f False"),
        (["-m", "shop.tasks"], "", "", "shop.tasks:f False"),
        (["shop/tasks.py"], "", "shop", "shop.tasks:f False"),
        (["src/shop/tasks.py"], "", "src/shop", "shop.tasks:f False"),
        (["src/shop/tasks.py"], "", "", "shop.tasks:f False"),
        (["lib/shop/tasks.py"], "lib", "", "shop.tasks:f False"),
        (["shop/tasks.py"], "", "", "tasks:f True"),  # whether others import shop.tasks, nobody can tell
    ],
)
def test_a_script_is_called_as_others_import_it(
    tmp_path: Path, arguments: list[str], path: str, packages: str, expected: str
) -> None:
    file = tmp_path / (arguments[-1] if arguments[-1].endswith(".py") else "shop/tasks.py")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(PROGRAM)
    if packages:
        (tmp_path / packages / "__init__.py").touch()
    environ = {**os.environ, "PYTHONPATH": str(tmp_path / path) if path else ""}
    command = [sys.executable, *arguments]
    run = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == expected


SPAWNING = """
import multiprocessing
from kapstan.identity import identity_of

def f(): ...

def show():
    print(identity_of(f, None), flush=True)

if __name__ == "__main__":
    show()
    child = multiprocessing.get_context("METHOD").Process(target=show)
    child.start()
    child.join()
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_child_of_a_script_calls_its_functions_as_the_script_does(tmp_path: Path, method: str) -> None:
    (tmp_path / "tasks.py").write_text(SPAWNING.replace("METHOD", method))
    command = [sys.executable, "tasks.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["tasks:f", "tasks:f"]
