"""The built wheel in a fresh environment: no extras, no network, no server; `python my_flow.py` runs and resumes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FLOW = """
import os
from kapstan import flow, task

@task
def double(n: int) -> int:
    with open(os.environ["EFFECTS"], "a") as effects:
        print(n, file=effects, flush=True)
    return 2 * n

@flow
def my_flow(count: int = 3) -> int:
    return sum(double(n) for n in range(count))

if __name__ == "__main__":
    print("result:", my_flow())
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment that holds the wheel and the base lock, nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    tools = Path(sys.executable).parent
    subprocess.run(
        [tools / "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True, capture_output=True
    )
    (wheel,) = folder.glob("*.whl")
    uv = [tools / "uv", "--quiet"]
    subprocess.run([*uv, "venv", "--python", sys.executable, folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    lock = [*uv, "pip", "install", "--python", python, "--require-hashes", "-r", ROOT / "requirements.lock"]
    subprocess.run(lock, check=True)
    subprocess.run([*uv, "pip", "install", "--python", python, "--no-deps", wheel], check=True)
    return python


def without_network(*command: str | Path) -> list[str | Path]:
    """The command in a network namespace of its own, which has not even a loopback that is up."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rn", "true"], capture_output=True).returncode:
        pytest.skip("unshare -rn is not allowed here, so that a network cannot be taken away")
    return [unshare, "-rn", *command]


@pytest.mark.timeout(300)
def test_a_flow_script_needs_nothing_but_the_wheel(python: Path, tmp_path: Path) -> None:
    (tmp_path / "my_flow.py").write_text(FLOW)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "EFFECTS": str(tmp_path / "effects")}
    run = subprocess.run(
        without_network(python, "my_flow.py"), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert "result: 6" in run.stdout
    assert (tmp_path / "effects").read_text().split() == ["0", "1", "2"]
    assert "Finished in state Completed()" in run.stderr + run.stdout
    processes = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout
    assert processes == "", "a bare flow script starts no server"


def test_the_wheel_carries_what_the_package_reads(python: Path) -> None:
    (wheel,) = python.parents[2].glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert all(name.startswith(("kapstan/", "kapstan-")) for name in names)
    source = ROOT / "operator" / "kapstan"
    data = {f"kapstan/{path.relative_to(source)}" for path in source.rglob("*.lua")} | {"kapstan/py.typed"}
    assert data <= set(names)


EXTRA = ("kapstan.controllers", "kapstan.cluster.kubernetes", "kapstan.cli.operator", "kapstan.__main__")


def test_every_module_of_the_base_install_imports_without_the_extras(python: Path) -> None:
    code = (
        "import importlib, pkgutil, kapstan\n"
        "for m in pkgutil.walk_packages(kapstan.__path__, 'kapstan.'):\n"
        f"    if not m.name.startswith({EXTRA!r}):\n"
        "        importlib.import_module(m.name)\n"
    )
    run = subprocess.run([python, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
