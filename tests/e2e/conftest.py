"""The installed product, once for all tests here: images built and loaded, chart installed, a namespace to work in.

Everything runs under the chart's rights and in namespaces that enforce Pod Security `restricted`.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.cluster import Cluster
from tests.cluster.fixtures import cluster as cluster
from tests.cluster.progress import Progress
from tests.e2e import product

from kapstan.backend import Backend
from kapstan.settings import Settings

TEAM = product.TEAM
WORKLOAD = Path(__file__).parent / "workload"


@dataclass(frozen=True)
class Installed:
    """The product on a cluster, with a pool in `namespace` and an image of user code."""

    cluster: Cluster
    namespace: str
    image: str

    def apply(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        manifest = {
            "apiVersion": "kapstan.dev/v1alpha1",
            "kind": kind,
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": spec,
        }
        self.cluster.kubectl("apply", "-f", "-", input=json.dumps(manifest))

    def deploy(self, name: str, flow: str, **spec: Any) -> None:
        """A Deployment of a flow of the workload image."""
        code = {"entrypoint": f"shop.py:{flow}", "image": self.image}
        self.apply("Deployment", name, {"flow": code, "workPoolRef": {"name": "pool"}, **spec})

    def run(self, name: str, deployment: str, **spec: Any) -> None:
        self.apply("FlowRun", name, {"deploymentRef": {"name": deployment}, **spec})

    def get(self, resource: str, name: str) -> dict[str, Any]:
        return self.cluster.get(f"{resource}.kapstan.dev", name, "-n", self.namespace)

    def wait(self, resource: str, name: str, path: str, value: str, seconds: int = 60) -> dict[str, Any]:
        """The object once ``path`` (a JSONPath) has ``value``."""
        condition = f"--for=jsonpath={{{path}}}={value}"
        names = (f"{resource}.kapstan.dev/{name}", "-n", self.namespace)
        self.cluster.kubectl("wait", condition, *names, f"--timeout={seconds}s", timeout=seconds + 10)
        return self.get(resource, name)

    @contextlib.contextmanager
    def backend(self) -> Generator[Backend]:
        """Queue, store and codec of the namespace, as a program outside the cluster reaches them."""
        stored = self.cluster.get("secret", "kapstan-workload", "-n", self.namespace)["data"]
        environ = {name: base64.b64decode(value).decode() for name, value in stored.items()}
        settings = Settings.from_env(environ | {"KAPSTAN_NAMESPACE": self.namespace})
        forward = self.cluster.forward
        with (
            forward(f"{product.RELEASE}-redis", product.NAMESPACE, 6379) as redis,
            forward(f"{product.RELEASE}-minio", product.NAMESPACE, 9000) as minio,
        ):
            service = f"{product.RELEASE}-redis.{product.NAMESPACE}.svc:6379"
            backend = Backend(
                replace(
                    settings,
                    redis_url=settings.redis_url.replace(service, f"{redis[0]}:{redis[1]}"),
                    s3_endpoint=f"http://{minio[0]}:{minio[1]}",
                )
            )
            try:
                yield backend
            finally:
                backend.close()


@pytest.fixture(scope="package")
def installed(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Installed]:
    """Images, chart, namespaces; a cluster that stays up keeps them, and the next session finds them."""
    capture: Any = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        progress = Progress()  # of the real standard error
        product.make_namespaces(cluster)
        product.load_images(cluster, progress)
        with ThreadPoolExecutor(1) as beside:  # its pods start while the user's image is built
            chart = beside.submit(product.install, cluster)
            image = product.load_user_image(cluster, "shop", WORKLOAD, progress)
            with progress.step("chart"):
                chart.result()
    made = Installed(cluster, TEAM, image)
    empty(cluster, *product.SERVED)  # of what a session that was killed has left
    made.apply("WorkPool", "pool", {})
    yield made
    empty(cluster, *product.SERVED)


def empty(cluster: Cluster, *namespaces: str) -> None:
    """Delete every resource of ours there, and by that what they own."""
    kinds = "flowruns.kapstan.dev,taskworkers.kapstan.dev,deployments.kapstan.dev,workpools.kapstan.dev"
    for namespace in namespaces:
        cluster.kubectl("delete", kinds, "--all", "-n", namespace, timeout=120)
