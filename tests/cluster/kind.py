"""Kubernetes in docker, by kind. Chosen where a docker daemon answers, as in CI."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.cluster import docker, tools
from tests.cluster.cluster import Cluster
from tests.cluster.command import run
from tests.cluster.configuration import BASE_IMAGE
from tests.cluster.errors import ClusterUnavailable, CommandFailed
from tests.cluster.progress import Progress
from tests.cluster.state import Record, State

NAME = "kind"
CONFIG = Path(__file__).parents[2] / "kind-config.yaml"
_CLUSTER = "kapstan-test"
_NODE = f"{_CLUSTER}-control-plane"


class KindCluster(Cluster):
    provider = NAME
    has_node = True
    base_image = BASE_IMAGE

    def load_image(
        self,
        dockerfile: Path,
        *,
        tag: str,
        context: Path,
        target: str | None = None,
        build_args: Mapping[str, str] | None = None,
    ) -> str:
        docker.build(dockerfile, target, tag, context, build_args or {})
        run([_kind(), "load", "docker-image", tag, "--name", _CLUSTER], timeout=600)
        return tag

    @contextmanager
    def policies(self) -> Generator[None]:
        yield  # kindnet always enforces them

    def ctr(self, *words: str | Path) -> str:
        return run(["docker", "exec", _NODE, "ctr", "-n", "k8s.io", *words], timeout=300)


def attach(state: State, record: Record) -> KindCluster | None:
    """The cluster that is up, None where it is not whole any more."""
    if not record.ready:
        return None
    try:
        cluster = KindCluster(state.kubeconfig, _kubectl(state), _gateway())
        cluster.kubectl("get", "--raw", "/readyz", timeout=20)
    except (ClusterUnavailable, CommandFailed):
        return None
    return cluster


def bring_up(state: State, kept: bool, install: bool, progress: Progress) -> KindCluster:
    """Create the cluster of kind-config.yaml. Only after ``take_down``. Raises ClusterUnavailable."""
    if _installed() is None:
        tools.ensure(["kind"], progress)
    record = Record(NAME, kept)
    state.write(record)
    try:
        with progress.step(f"build image {BASE_IMAGE}"):
            docker.ensure_base()
        with progress.step("create the cluster by kind"):
            where = ["--name", _CLUSTER, "--config", CONFIG, "--kubeconfig", state.kubeconfig]
            run([_kind(), "create", "cluster", *where, "--wait", "180s"], timeout=900)
        with progress.step(f"load image {BASE_IMAGE}"):
            run([_kind(), "load", "docker-image", BASE_IMAGE, "--name", _CLUSTER], timeout=600)
        cluster = KindCluster(state.kubeconfig, _kubectl(state), _gateway())
        cluster.kubectl("wait", "node", "--all", "--for=condition=Ready", "--timeout=120s", timeout=150)
    except CommandFailed as failure:
        raise ClusterUnavailable(f"kind did not bring a cluster up: {failure}") from failure
    state.write(replace(record, ready=True))
    return cluster


def take_down(state: State) -> None:
    """Delete the cluster, whole or half. Raises ClusterUnavailable where kind cannot."""
    try:
        run([_kind(), "delete", "cluster", "--name", _CLUSTER, "--kubeconfig", state.root / "deleted"], timeout=180)
    except CommandFailed as failure:
        raise ClusterUnavailable(f"kind cannot delete cluster {_CLUSTER}: {failure}") from failure
    state.remove()


def _installed() -> str | None:
    """kind of this machine, if it is the release that the node's image was made for."""
    found = shutil.which("kind")
    if found is None or run([found, "version", "-q"]).strip().lstrip("v") != tools.TOOLS["kind"].version.lstrip("v"):
        return None
    return found


def _kind() -> Path | str:
    return _installed() or tools.path("kind")


def _kubectl(state: State) -> Path | str:
    """kubectl of this machine, else the one in the node's image, whose version is right by nature."""
    found = shutil.which("kubectl")
    if found is not None:
        return found
    copied = state.root / "kubectl"
    if not os.access(copied, os.X_OK):
        run(["docker", "cp", f"{_NODE}:/usr/bin/kubectl", copied])
    return copied


def _gateway() -> str | None:
    """This machine's address in the network of the nodes, which pods can reach."""
    networks = json.loads(run(["docker", "network", "inspect", "kind"]))
    gateways = [one.get("Gateway", "") for one in networks[0]["IPAM"]["Config"]]
    return next((gateway for gateway in gateways if "." in gateway), None)
