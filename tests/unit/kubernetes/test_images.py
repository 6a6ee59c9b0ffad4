"""The images' recipe: what is built upon and what is installed is named by its hash, and nothing runs as root."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "images" / "Dockerfile").read_text().replace("\\\n", " ")
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
TARGETS = ("runtime", "operator", "redis-dev", "minio-dev")
LOCKS = ("requirements.lock", "requirements-operator.lock", "requirements-dev.lock")


def stages() -> dict[str, list[str]]:
    """Instructions by the name of their stage, the stage's FROM first."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in DOCKERFILE.splitlines():
        if line.startswith("FROM "):
            lines = found.setdefault(line.split(" AS ")[1], [])
        lines.append(line)
    return found


def test_every_base_image_is_named_by_its_digest() -> None:
    (default,) = re.findall(r"^ARG BASE=(.+)$", DOCKERFILE, re.MULTILINE)
    assert DIGEST.search(default)
    for lines in stages().values():
        built_upon = lines[0].split()[1]
        assert built_upon == "${BASE}" or built_upon in stages()


def test_every_package_is_held_to_a_hash() -> None:
    installs = re.findall(r"sh /wheels/install (.+)$", DOCKERFILE, re.MULTILINE)
    assert len(installs) == 3
    *locked, own = installs
    assert all(words.startswith("--require-hashes -r requirements") for words in locked)
    assert own == "--no-deps --no-build-isolation --prefix /product ."
    assert "pip install" not in DOCKERFILE
    script = (ROOT / "images" / "install").read_text()
    (command,) = re.findall(r"^.*-m pip .*install .*$", script, re.MULTILINE)
    assert command.endswith('"$@"'), "nothing is installed but what the Dockerfile names"


@pytest.mark.parametrize("name", LOCKS)
def test_the_locks_hold_pip_and_know_no_address(name: str) -> None:
    text = (ROOT / name).read_text()
    assert re.search(r"^pip==\S+ \\\n    --hash=sha256:", text, re.MULTILINE)
    assert not re.search(r"^(--index|--extra|--find|--trusted)|@ https?://", text, re.MULTILINE)


@pytest.mark.parametrize("target", TARGETS)
def test_no_image_runs_as_root(target: str) -> None:
    users = [line.split()[1] for line in stages()[target] if line.startswith("USER ")]
    assert users[-1] == "65532:65532", "by number: Kubernetes cannot tell that a name is not root's"


def test_every_action_is_named_by_its_commit() -> None:
    for path in (ROOT / ".github" / "workflows").glob("*.yaml"):
        jobs = yaml.safe_load(path.read_text())["jobs"]
        used = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
        assert used
        assert [one for one in used if not re.search(r"@[0-9a-f]{40}$", one)] == []
