"""Builds the product as it is shipped, images and chart, and installs it on the cluster of the tests.

`conftest` calls it once a session, and `python -m tests.e2e` for whoever wants to try the product on that cluster. What
was built and installed is noted on the namespace of the installation, so that nothing is done again for the same
sources. Wheels are downloaded once into the cache, because a build inside the node has no way to a package index.
"""

from __future__ import annotations

import hashlib
import importlib.util
import ipaddress
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from packaging.markers import Marker
from tests.cluster import tools
from tests.cluster.cluster import Cluster
from tests.cluster.command import run
from tests.cluster.progress import Progress

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "kapstan"
QUICKSTART = ROOT / "examples" / "quickstart"
TARGETS = ("runtime", "operator", "redis-dev", "minio-dev")
RELEASE, NAMESPACE = "kapstan", "kapstan-system"
TEAM, DEMO, LIMITED = "team", "quickstart", "limited"
SERVED = (TEAM, DEMO, LIMITED)
"""Namespaces of workloads."""

_SOURCES = ("pyproject.toml", "README.md", "LICENSE", "requirements.lock", "requirements-operator.lock")
_DIRECTORIES = ("operator", "images")
_NOTE = "kapstan.test/image-{}"
# Debian bookworm's Python, which the base image of the tests has. pip judges markers by the Python that it runs under.
_PYTHON = {"python_version": "3.11", "python_full_version": "3.11.2"}
_MARKED = re.compile(r"^(?P<requirement>[^\s#][^;]*?) *; *(?P<marker>.*?) *\\$", re.MULTILINE)


def load_images(cluster: Cluster, progress: Progress) -> None:
    """Build every image of the product and put it on the cluster, unless what is there was made of the same."""
    digest = sources_digest()
    if all(_noted(cluster, target)[0] == digest for target in TARGETS):
        return
    with tempfile.TemporaryDirectory() as scratch:
        context = _context(cluster, Path(scratch), progress)
        for target in TARGETS:
            with progress.step(f"image {target}"):
                reference = cluster.load_image(
                    context / "images" / "Dockerfile",
                    target=target,
                    tag=_tag(target),
                    context=context,
                    build_args={"BASE": cluster.base_image},
                )
            _note(cluster, target, digest, reference)


def load_user_image(cluster: Cluster, name: str, directory: Path, progress: Progress) -> str:
    """Build a user's image FROM the runtime and put it on the cluster, unless it is there. Returns its reference."""
    digest = _digest([*directory.iterdir()], _noted(cluster, "runtime")[0])
    noted, reference = _noted(cluster, name)
    if noted != digest:
        with progress.step(f"image {name}"):
            reference = cluster.load_image(
                directory / "Dockerfile",
                tag=_tag(name),
                context=directory,
                build_args={"RUNTIME": image(cluster, "runtime")},
            )
        _note(cluster, name, digest, reference)
    return reference


def image(cluster: Cluster, name: str) -> str:
    """What to write into ``image:``, once `load_images` or `load_user_image` has put it there."""
    return _noted(cluster, name)[1]


def install(cluster: Cluster, *more: str, values: tuple[str, ...] = ()) -> None:
    """Install the chart for the namespaces `SERVED` and ``more``, or upgrade what is installed; then it is ready."""
    operator, _, tag = image(cluster, "operator").rpartition(":")
    settings = (
        f"namespaces={{{','.join((*SERVED, *more))}}}",
        "devServices.enabled=true",
        f"devServices.redis.image={image(cluster, 'redis-dev')}",
        f"devServices.minio.image={image(cluster, 'minio-dev')}",
        f"operator.image.repository={operator}",
        f"operator.image.tag={tag}",
        # The tag stays; this says to a running installation that what stands behind it has changed.
        f"operator.podAnnotations.sources={_noted(cluster, 'operator')[0]}",
        # Flows of the tests talk to a program on this machine, and to nobody else.
        f"networkPolicy.workloadEgress[0].to[0].ipBlock.cidr={_this_machine(cluster)}",
        *values,
    )
    words = [word for setting in settings for word in ("--set", setting)]
    cluster.helm("upgrade", "--install", RELEASE, CHART, "-n", NAMESPACE, *words, "--wait", "--timeout", "3m")


def _this_machine(cluster: Cluster) -> str:
    """As a range of addresses; all of them where its address is not known."""
    try:
        return str(ipaddress.ip_network(cluster.host_address or "0.0.0.0/0"))
    except ValueError:  # a name
        return "0.0.0.0/0"


def make_namespaces(cluster: Cluster) -> None:
    """That of the installation, and those of `SERVED`; no error if they are there."""
    for name in (NAMESPACE, *SERVED):
        make_namespace(cluster, name)


def make_namespace(cluster: Cluster, name: str) -> None:
    """A namespace that enforces Pod Security `restricted`; no error if it is there."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    cluster.kubectl("apply", "-f", "-", input=json.dumps(manifest))


def sources_digest() -> str:
    """Of everything that the images are made of."""
    inside = [path for name in _DIRECTORIES for path in (ROOT / name).rglob("*")]
    return _digest([*(ROOT / name for name in _SOURCES), *inside])


def _digest(paths: Iterable[Path], *more: str) -> str:
    digest = hashlib.sha256("\0".join(more).encode())
    for path in sorted(paths):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return f"sha256-{digest.hexdigest()[:16]}"


def _tag(name: str) -> str:
    return f"kapstan.test/{name}:e2e"


def _noted(cluster: Cluster, name: str) -> tuple[str, str]:
    """Digest of what an image on the cluster was made of, and the image's reference; empty where none was put there."""
    annotations = cluster.get("namespace", NAMESPACE)["metadata"].get("annotations", {})
    digest, _, reference = str(annotations.get(_NOTE.format(name), "")).partition(" ")
    return digest, reference


def _note(cluster: Cluster, name: str, digest: str, reference: str) -> None:
    note = f"{_NOTE.format(name)}={digest} {reference}"
    cluster.kubectl("annotate", "--overwrite", "namespace", NAMESPACE, note)


def _context(cluster: Cluster, scratch: Path, progress: Progress) -> Path:
    """What `docker build .` sees of a checkout, with the wheels and the MinIO binary in their places."""
    context = scratch / "context"
    context.mkdir()
    for name in _SOURCES:
        shutil.copy(ROOT / name, context)
    for name in _DIRECTORIES:
        shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
    if cluster.has_node and cluster.provider == "node":
        for wheel in _wheels(progress).glob("*.whl"):
            shutil.copy(wheel, context / "images" / "wheels")
    tools.ensure(["minio"], progress)
    shutil.copy(tools.path("minio"), context / "images" / "bin" / "minio")
    return context


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
