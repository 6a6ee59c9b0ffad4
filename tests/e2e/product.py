"""Builds the product as it is shipped, images and chart, and installs it on the cluster of the tests.

`conftest` calls it once a session; `demo.py` of the quickstart does the same by the same Makefile targets. Wheels are
downloaded once into the cache, because a build inside the node has no way to a package index.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import sys
from pathlib import Path

from packaging.markers import Marker
from tests.cluster import tools
from tests.cluster.cluster import Cluster
from tests.cluster.command import run
from tests.cluster.progress import Progress

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "kapstan"
TARGETS = ("runtime", "operator", "redis-dev", "minio-dev")
RELEASE, NAMESPACE = "kapstan", "kapstan-system"

_SOURCES = ("pyproject.toml", "README.md", "LICENSE", "requirements.lock", "requirements-operator.lock")
# Debian bookworm's Python, which the base image of the tests has. pip judges markers by the Python that it runs under.
_PYTHON = {"python_version": "3.11", "python_full_version": "3.11.2"}
_MARKED = re.compile(r"^(?P<requirement>[^\s#][^;]*?) *; *(?P<marker>.*?) *\\$", re.MULTILINE)


def image(target: str) -> str:
    return f"kapstan.test/{target}:e2e"


def load_images(cluster: Cluster, scratch: Path, progress: Progress) -> None:
    """Build every image of the product and put it on the cluster; what has not changed is not sent again."""
    context = _context(cluster, scratch, progress)
    for target in TARGETS:
        with progress.step(f"image {target}"):
            cluster.load_image(
                context / "images" / "Dockerfile",
                target=target,
                tag=image(target),
                context=context,
                build_args={"BASE": cluster.base_image},
            )


def install(cluster: Cluster, *namespaces: str, values: tuple[str, ...] = ()) -> None:
    """Install the chart, or upgrade what is installed; returns when everything is ready."""
    operator, _, tag = image("operator").rpartition(":")
    settings = (
        f"namespaces={{{','.join(namespaces)}}}",
        "devServices.enabled=true",
        f"devServices.redis.image={image('redis-dev')}",
        f"devServices.minio.image={image('minio-dev')}",
        f"operator.image.repository={operator}",
        f"operator.image.tag={tag}",
        # The tag stays; this says to a running installation that what stands behind it has changed.
        f"operator.podAnnotations.sources={_digest(ROOT / 'operator')}",
        *values,
    )
    words = [word for setting in settings for word in ("--set", setting)]
    cluster.helm("upgrade", "--install", RELEASE, CHART, "-n", NAMESPACE, *words, "--wait", "--timeout", "3m")


def make_namespace(cluster: Cluster, name: str) -> None:
    """A namespace that enforces Pod Security `restricted`; no error if it is there."""
    manifest = (
        f'{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{name}",'
        '"labels":{"pod-security.kubernetes.io/enforce":"restricted"}}}'
    )
    cluster.kubectl("apply", "-f", "-", input=manifest)


def _context(cluster: Cluster, scratch: Path, progress: Progress) -> Path:
    """What `docker build .` sees of a checkout, with the wheels and the MinIO binary in their places."""
    context = scratch / "context"
    context.mkdir()
    for name in _SOURCES:
        shutil.copy(ROOT / name, context)
    for name in ("operator", "images"):
        shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
    if cluster.has_node and cluster.provider == "node":
        for wheel in _wheels(progress).glob("*.whl"):
            shutil.copy(wheel, context / "images" / "wheels")
    tools.ensure(["minio"], progress)
    shutil.copy(tools.path("minio"), context / "images" / "bin" / "minio")
    return context


def _digest(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.suffix in (".py", ".lua")):
        digest.update(str(path.relative_to(directory)).encode() + b"\0" + path.read_bytes())
    return f"sha256-{digest.hexdigest()[:16]}"


def _wheels(progress: Progress) -> Path:
    """The locked wheels for the base image's Python, and pip's own."""
    lock = ROOT / "requirements-operator.lock"
    directory = tools.cache() / f"wheels-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if directory.exists():
        return directory
    unfinished = directory.with_name(f"{directory.name}.{os.getpid()}")
    machine = platform.machine()
    platforms = [f"manylinux2014_{machine}", f"manylinux_2_28_{machine}", f"manylinux_2_34_{machine}"]
    version = f"--python-version={_PYTHON['python_version']}"
    options = ["--only-binary=:all:", version, *(f"--platform={name}" for name in platforms)]
    unfinished.mkdir()
    wanted = unfinished / "requirements.txt"
    wanted.write_text(_requirements(lock.read_text()))
    with progress.step("wheels for the images"):
        run([*_pip(), "download", "-q", *options, "--require-hashes", "-r", wanted, "-d", unfinished], timeout=900)
        run([*_pip(), "download", "-q", *options, "--no-deps", "pip", "-d", unfinished], timeout=300)
    unfinished.rename(directory)
    return directory


def _requirements(lock: str) -> str:
    """The lock for the image's Python: markers judged and taken away, with the requirements that they exclude."""
    environment = {**_PYTHON, "platform_machine": platform.machine()}

    def judge(found: re.Match[str]) -> str:
        applies = Marker(found["marker"]).evaluate(environment)
        return f"{found['requirement']} \\" if applies else f"# {found['requirement']}: not for this Python"

    judged = _MARKED.sub(judge, lock)
    # The hashes of what was taken away go with it.
    return re.sub(r"^# .*: not for this Python\n(    --hash=.*\n)+", "", judged, flags=re.MULTILINE)


def _pip() -> list[str | Path]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    return [shutil.which("pip3") or "pip3"]
