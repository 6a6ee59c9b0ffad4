"""Images without a docker engine and without a registry: built by buildah, carried as archives.

Layers are kept below the cache directory, so the machine's own container storage is never touched. Called by the node
and, for the base image, by nobody else: a cluster on docker builds with docker.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Container, Mapping
from pathlib import Path
from typing import IO, Any

from tests.cluster import tools
from tests.cluster.command import run
from tests.cluster.configuration import BASE_IMAGE, PAUSE_IMAGE
from tests.cluster.errors import ClusterUnavailable, CommandFailed
from tests.cluster.progress import Progress

SUITE = "bookworm"
PACKAGES = ("ca-certificates", "python3")
_SLIM = (
    '--aptopt=Acquire::Languages "none"',
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
)
# buildah writes there wherever its storage is.
_HABITS = (Path("/run/containers"), Path("/var/lib/containers"))
_PAUSE = 'FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT ["/pause"]\n'
_DOCKER = "application/vnd.docker"
_BASE = 'FROM scratch\nADD rootfs.tar /\nCMD ["/bin/bash"]\n'


def directory() -> Path:
    return tools.cache() / "images"


def ensure(progress: Progress) -> list[Path]:
    """The archives that every node starts with: pause image and base image. Built where they are not in the cache."""
    directory().mkdir(parents=True, exist_ok=True)
    pause_key = tools.TOOLS["pause"].version
    base_key = hashlib.sha256(repr((SUITE, PACKAGES, _SLIM, _BASE)).encode()).hexdigest()[:12]
    pause, base = directory() / f"pause-{pause_key}.tar", directory() / f"base-{base_key}.tar"
    if not pause.exists():
        with progress.step(f"build image {PAUSE_IMAGE}"), tempfile.TemporaryDirectory() as name:
            shutil.copy(tools.path("pause"), Path(name) / "pause")
            _build_and_save(PAUSE_IMAGE, _PAUSE, Path(name), pause)
    if not base.exists():
        title = f"build image {BASE_IMAGE} (Debian {SUITE}, {', '.join(PACKAGES)})"
        with progress.step(title), tempfile.TemporaryDirectory(dir=directory(), prefix=".build-") as name:
            _debian(Path(name) / "rootfs.tar")
            _build_and_save(BASE_IMAGE, _BASE, Path(name), base)
    elif _number(BASE_IMAGE) is None:  # the layers were removed, the archive was not
        with progress.step(f"unpack image {BASE_IMAGE}"):
            _buildah("pull", "-q", f"docker-archive:{base}")
    return [pause, base]


def build(dockerfile: Path, target: str | None, tag: str, context: Path, build_args: Mapping[str, str]) -> str:
    """Build *target* of *dockerfile* as *tag* and return the image's id. FROM can name only what was built here.

    Raises CommandFailed with the build's output.
    """
    stage = ["--target", target] if target else []
    arguments = [word for key, value in build_args.items() for word in ("--build-arg", f"{key}={value}")]
    before = _number(tag)
    _buildah("bud", "--layers", "--pull-never", "-t", tag, "-f", dockerfile, *stage, *arguments, context, timeout=1800)
    number = _number(tag)
    assert number is not None
    if before not in (None, number):
        with contextlib.suppress(CommandFailed):  # the image that bore the tag, unless another one is built upon it
            _buildah("rmi", str(before))
    return number


def save(tag: str, archive: Path) -> None:
    """Write the image *tag* to *archive*, which is there whole or not at all."""
    unfinished = archive.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    _buildah("push", "-q", tag, f"docker-archive:{unfinished}:{tag}", timeout=600)
    unfinished.replace(archive)


def export(tag: str, archive: Path, known: Container[str]) -> None:
    """Write the image *tag* to *archive* without the layers whose digests are *known* where it is imported.

    Images share most of them, and importing one costs more than writing it.
    """
    whole = archive.with_suffix(".whole")
    save(tag, whole)
    with tarfile.open(whole) as full, tarfile.open(archive, "w") as slim:
        (about,) = json.loads(_read(full, "manifest.json"))
        config = _read(full, about["Config"])
        layers: list[dict[str, Any]] = []
        for digest, name in zip(json.loads(config)["rootfs"]["diff_ids"], about["Layers"], strict=True):
            member = full.getmember(name)
            layers.append({"mediaType": f"{_DOCKER}.image.rootfs.diff.tar", "size": member.size, "digest": digest})
            if digest not in known:
                _add(slim, _blob(digest), full.extractfile(member), member.size)
        config_entry = _add_blob(slim, f"{_DOCKER}.container.image.v1+json", config)
        manifest_type = f"{_DOCKER}.distribution.manifest.v2+json"
        manifest = {"schemaVersion": 2, "mediaType": manifest_type, "config": config_entry, "layers": layers}
        entry = _add_blob(slim, manifest_type, json.dumps(manifest).encode())
        named = {**entry, "annotations": {"io.containerd.image.name": tag}}
        for name, content in (
            ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
            ("index.json", {"schemaVersion": 2, "manifests": [named]}),
        ):
            body = json.dumps(content).encode()
            _add(slim, name, io.BytesIO(body), len(body))
    whole.unlink()


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None, name
    return file.read()


def _add(tar: tarfile.TarFile, name: str, file: IO[bytes] | None, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    tar.addfile(info, file)


def _add_blob(tar: tarfile.TarFile, media_type: str, body: bytes) -> dict[str, Any]:
    """The descriptor of what was added."""
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    _add(tar, _blob(digest), io.BytesIO(body), len(body))
    return {"mediaType": media_type, "digest": digest, "size": len(body)}


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def publish(tag: str) -> None:
    """Push the image to the registry that its name begins with."""
    _buildah("push", "-q", tag, timeout=600)


def _build_and_save(tag: str, dockerfile: str, context: Path, archive: Path) -> None:
    (context / "Dockerfile").write_text(dockerfile)
    build(context / "Dockerfile", None, tag, context, {})
    save(tag, archive)


def _debian(rootfs: Path) -> None:
    include = f"--include={','.join(PACKAGES)}"
    try:
        run(["mmdebstrap", "--quiet", "--variant=minbase", include, *_SLIM, SUITE, rootfs], timeout=1800)
    except CommandFailed as failure:
        raise ClusterUnavailable(f"the base image cannot be made from Debian's packages: {failure}") from failure


def _number(tag: str) -> str | None:
    """The id of the image that bears *tag*, None where none does."""
    images = (
        line.split() for line in _buildah("images", "--no-trunc", "--format", "{{.Name}}:{{.Tag}} {{.ID}}").splitlines()
    )
    return next((number.removeprefix("sha256:") for name, number in images if name == tag), None)


def _buildah(*words: str | Path, timeout: float = 120) -> str:
    """buildah with storage of our own. It leaves mounts behind when it is killed: in a mount namespace of its own they
    go with it. ``chroot`` isolation needs no rights beyond root's and no container runtime."""
    storage = tools.cache() / "storage"
    env = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    places = ("--storage-driver", "overlay", "--root", storage / "layers", "--runroot", storage / "run")
    made = [path for path in _HABITS if not path.exists()]
    for path in made:
        path.mkdir(mode=0o700)
    cover = "".join(f"mount -n -t tmpfs kapstan-test {path} && " for path in _HABITS)
    try:
        hidden = ["unshare", "--mount", "sh", "-c", f'{cover}exec "$@"', "sh"]
        return run([*hidden, "buildah", *places, *words], env=env, timeout=timeout)
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # another build is using it, or somebody else does by now
                path.rmdir()
