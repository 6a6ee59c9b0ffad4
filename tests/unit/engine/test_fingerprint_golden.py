"""Fingerprints and keys of inputs are the same in every process, folder, hash seed and Python version, and in the next
release."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.engine.fingerprinted import FILES, NAMES, SYNTAX, VALUES

HERE = Path(__file__).parent
OPERATOR = HERE.parents[2] / "operator"
GOLDEN: dict[str, str] = json.loads((HERE / "fingerprints.json").read_text())
"""Written by release 0.1.0 on Python 3.11. Whatever changes one makes every cached result of such code unused: raise
``fingerprint.VERSION`` and say so in the changelog."""


def pythons() -> list[str]:
    """Every Python of this machine that Kapstan supports, those of pyenv too."""
    found = {sys.executable, *map(str, Path.home().glob(".pyenv/versions/*/bin/python3"))}
    found |= {path for minor in range(11, 20) if (path := shutil.which(f"python3.{minor}")) is not None}
    new_enough = "import sys; sys.exit(sys.version_info < (3, 11))"
    return sorted(
        path for path in found if subprocess.run([path, "-c", new_enough], capture_output=True).returncode == 0
    )


SHOWN = """
import ast, hashlib, json
from kapstan.cache_policies import INPUTS
from kapstan.engine.fingerprint import fingerprint
from kapstan.engine.fingerprint_tree import written
def shown(module, names, syntax):
    found = {name: fingerprint(getattr(module, name).spec).digest for name in names}
    found |= {f"inputs {name}": INPUTS.compute_key(None, {"value": value}, None) for name, value in VALUES.items()}
    return found | {"syntax": hashlib.sha256(written(ast.parse(syntax))).hexdigest()}
"""


def run(python: str, folder: Path, arguments: list[str], **environ: str) -> dict[str, str]:
    environ = {**os.environ, "PYTHONPATH": f"{OPERATOR}{os.pathsep}{folder}", **environ}
    done = subprocess.run([python, *arguments], env=environ, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop").mkdir()
    main = f"""
if __name__ == '__main__':
    import sys, json, showing
    print(json.dumps(showing.shown(sys.modules['__main__'], {NAMES}, showing.SYNTAX)))
"""
    for name, text in FILES.items():
        (tmp_path / "shop" / f"{name}.py").write_text(text + (main if name == "tasks" else ""))
    (tmp_path / "showing.py").write_text(f"{SHOWN}\nSYNTAX = {SYNTAX!r}\n{VALUES}")
    return tmp_path


IMPORTED = f"import json, showing, shop.tasks; print(json.dumps(showing.shown(shop.tasks, {NAMES}, showing.SYNTAX)))"


@pytest.mark.parametrize("python", pythons())
@pytest.mark.parametrize("seed", ["0", "4242"])
def test_every_python_and_hash_seed_agree(python: str, seed: str, folder: Path) -> None:
    assert run(python, folder, ["-c", IMPORTED], PYTHONHASHSEED=seed) == GOLDEN


@pytest.mark.parametrize("how", [["-m", "shop.tasks"], ["-O", "-c", IMPORTED], ["-OO", "-m", "shop.tasks"]])
def test_a_script_and_an_optimised_process_agree(how: list[str], folder: Path) -> None:
    assert run(sys.executable, folder, how) == GOLDEN
