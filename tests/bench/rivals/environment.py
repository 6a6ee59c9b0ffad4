"""The rivals' own virtual environment: made once from ``requirements.txt`` beside this file, kept in the cache."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def bin_folder() -> Path:
    """The folder of its programs."""
    name = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = Path("~/.cache/kapstan").expanduser() / f"rivals-{name}"
    done = folder / "done"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", "-r", REQUIREMENTS], check=True)
        done.touch()
    return folder / "bin"


def version_of(package: str) -> str:
    """The version of a package in it."""
    code = f"import importlib.metadata as all; print(all.version({package!r}))"
    return subprocess.run(
        [bin_folder() / "python", "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()
