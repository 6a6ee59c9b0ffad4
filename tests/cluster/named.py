"""A cluster that somebody names by KAPSTAN_TEST_KUBECONFIG. It is used, never brought up, changed or taken down by us.

Its nodes are not ours to reach. Images get there through the registry named by KAPSTAN_TEST_REGISTRY (such as
``registry.example/kapstan``, pushed to by docker or else by buildah); where none is named they must be there already.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.cluster import docker, images, tools
from tests.cluster.cluster import Cluster
from tests.cluster.configuration import BASE_IMAGE
from tests.cluster.errors import ClusterUnavailable, CommandFailed

VARIABLE = "KAPSTAN_TEST_KUBECONFIG"


class NamedCluster(Cluster):
    provider = "named"
    has_node = False
    base_image = BASE_IMAGE

    def __init__(self, kubeconfig: Path, kubectl: str | Path) -> None:
        super().__init__(kubeconfig, kubectl, os.environ.get("KAPSTAN_TEST_HOST_ADDRESS"))
        self._registry = os.environ.get("KAPSTAN_TEST_REGISTRY")

    def load_image(
        self,
        dockerfile: Path,
        *,
        tag: str,
        context: Path,
        target: str | None = None,
        build_args: Mapping[str, str] | None = None,
    ) -> str:
        if not self._registry:
            return tag
        reference = f"{self._registry.rstrip('/')}/{tag.rpartition('/')[2]}"
        builder = docker if docker.answers() else images
        builder.build(dockerfile, target, reference, context, build_args or {})
        builder.publish(reference)
        return reference


def attach() -> NamedCluster | None:
    """The named cluster, None where none is named. Raises ClusterUnavailable where it is named but does not answer."""
    named = os.environ.get(VARIABLE)
    if not named:
        return None
    path = Path(named).absolute()
    if not path.is_file():
        raise ClusterUnavailable(f"{VARIABLE}={named}: there is no such file")
    kubectl = shutil.which("kubectl") if tools.missing(["kubectl"]) else tools.path("kubectl")
    if kubectl is None:
        raise ClusterUnavailable(f"{VARIABLE} is set, but kubectl is not on PATH")
    cluster = NamedCluster(path, kubectl)
    try:
        cluster.kubectl("get", "--raw", "/readyz", timeout=20)
    except CommandFailed as failure:
        raise ClusterUnavailable(f"{VARIABLE}={named} does not answer: {failure.output.strip()}") from failure
    return cluster
