"""Fingerprints and keys of inputs are the same in every process, folder, hash seed and Python version, and in the next
release."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.engine.fingerprint_programs import ALIKE, HELPERS, NOT_SEEN, SEEN, STRANGE
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


def run(python: str, folder: Path, arguments: list[str], cwd: str | Path = "/", **environ: str) -> dict[str, str]:
    environ = {**os.environ, "PYTHONPATH": f"{OPERATOR}{os.pathsep}{folder}", **environ}
    done = subprocess.run([python, *arguments], env=environ, cwd=cwd, capture_output=True, text=True)
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


EACH = """
import importlib, json, pathlib, sys
from kapstan.engine.fingerprint import fingerprint
found = {}
for number, (name, files) in enumerate(json.loads(pathlib.Path("programs.json").read_text()).items()):
    folder = pathlib.Path(str(number), "app").absolute()
    folder.mkdir(parents=True)
    for file, text in files.items():
        (folder / f"{file}.py").write_text(text)
    for module in [module for module in sys.modules if module.partition(".")[0] == "app"]:
        del sys.modules[module]
    sys.path.insert(0, str(folder.parent))
    importlib.invalidate_caches()
    found[name] = fingerprint(importlib.import_module("app.t").f.spec).digest
    del sys.path[0]
print(json.dumps(found))
"""


def test_every_python_sees_each_way_of_use_alike(tmp_path: Path) -> None:
    texts = {**ALIKE, **STRANGE, **{name: text.format(x=0) for name, text in {**SEEN, **NOT_SEEN}.items()}}
    files = {
        name: {"__init__": "", "helpers": HELPERS.format(x=0), "t": f"from kapstan import task\n{text}"}
        for name, text in texts.items()
    }
    found: list[dict[str, str]] = []
    for number, python in enumerate(pythons()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "programs.json").write_text(json.dumps(files))
        found.append(run(python, folder, ["-c", EACH], cwd=folder, PYTHONHASHSEED=str(number + 1)))
    assert len(found[0]) == len(texts) > 50
    for others in found[1:]:
        assert others == found[0]
    digest = hashlib.sha256(json.dumps(found[0], sort_keys=True).encode()).hexdigest()
    assert digest == GOLDEN_OF_ALL, "raise fingerprint.VERSION"


GOLDEN_OF_ALL = "c43868d280bb385b0ad8972884ea34de445f31a4001193c38b6939f6d9280fdc"
