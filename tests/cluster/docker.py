"""Images where a docker daemon answers. Used for kind and for a named cluster with a registry."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.command import run, succeeds
from tests.cluster.configuration import BASE_IMAGE
from tests.cluster.images import PACKAGES, SUITE

_BASE = f"""\
FROM debian:{SUITE}-slim
RUN apt-get update && apt-get install -y --no-install-recommends {" ".join(PACKAGES)} && rm -rf /var/lib/apt/lists/*
"""


def answers() -> bool:
    """True where ``docker info`` reaches a daemon, not merely where the client is installed."""
    return shutil.which("docker") is not None and succeeds(["docker", "info"])


def build(dockerfile: Path, target: str | None, tag: str, context: Path, build_args: Mapping[str, str]) -> str:
    """Build as ``images.build`` does and return the image's id. Raises CommandFailed with the build's output."""
    stage = ["--target", target] if target else []
    arguments = [word for key, value in build_args.items() for word in ("--build-arg", f"{key}={value}")]
    run(["docker", "build", "-t", tag, "-f", dockerfile, *stage, *arguments, context], timeout=1800)
    return run(["docker", "image", "inspect", "--format", "{{.Id}}", tag]).strip()


def publish(tag: str) -> None:
    """Push the image to the registry that its name begins with."""
    run(["docker", "push", "-q", tag], timeout=600)


def ensure_base() -> None:
    """Build the base image. docker's own cache makes the second time quick."""
    run(["docker", "build", "-t", BASE_IMAGE, "-"], text=_BASE, timeout=1800)
