"""The suite of ``tests/contract/launcher`` over real Jobs, pods and Deployments of apps/v1.

The owners are real, because garbage collection takes what belongs to nobody, and stand in a namespace that no operator
serves: what happens there is the launcher's doing alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
from tests.cluster.progress import Progress
from tests.contract.launcher.conftest import CODE, On, Owner, Place, over
from tests.contract.launcher.test_attempts import *  # noqa: F403
from tests.contract.launcher.test_workers import *  # noqa: F403
from tests.e2e import product
from tests.e2e.conftest import TEAM, Installed, empty

from kapstan.cluster.kubernetes.cache import Cache
from kapstan.cluster.kubernetes.client import Client
from kapstan.cluster.kubernetes.cluster import RESOURCES, KubernetesCluster
from kapstan.cluster.kubernetes.launcher import KubernetesLauncher
from kapstan.cluster.kubernetes.render import WORKLOAD_SECRET
from kapstan.controllers.informers import Informers, Source, sources
from kapstan.errors import NotFound
from kapstan.ports import Key, Kind, Launcher, Manifest
from kapstan.reconcile.cache import key_of_manifest
from kapstan.reconcile.loop import Loop
from kapstan.reconcile.table import TABLE
from kapstan.resources import API_VERSION

NAMESPACE = "launcher"


@dataclass(frozen=True)
class Site:
    """Where on which cluster."""

    kubeconfig: str
    image: str


@pytest.fixture(scope="module")
def site(installed: Installed) -> Iterator[Site]:
    """The namespace, whose pods reach the services with the settings of a served one, and the image of ``CODE``."""
    cluster = installed.cluster
    product.make_namespace(cluster, NAMESPACE)
    settings = cluster.get("secret", WORKLOAD_SECRET, "-n", TEAM)["data"]
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": WORKLOAD_SECRET}, "data": settings}
    cluster.kubectl("apply", "-n", NAMESPACE, "-f", "-", input=json.dumps(secret))
    image = product.load_user_image(cluster, "launcher", CODE, Progress())
    empty(cluster, NAMESPACE)  # of what a session that was killed has left
    yield Site(str(cluster.kubeconfig), image)
    empty(cluster, NAMESPACE)


@contextlib.asynccontextmanager
async def kubernetes(site: Site) -> AsyncGenerator[Place]:
    client = await Client.connect(site.kubeconfig)
    watches: list[asyncio.Task[None]] = []

    def make(changed: Callable[[Key], None]) -> Launcher:
        cache = Cache()
        informers = Informers(client, cast("Loop", Heard(changed)), cache, [NAMESPACE])
        for stream in informers.streams:  # until all of them are listed the namespace is not served
            informers.watch_opened(stream)
        watches.extend(asyncio.create_task(follow(client, informers, source)) for source in CHILDREN)
        return KubernetesLauncher(client, cache)

    ours = KubernetesCluster(client)
    run = await owner(ours, "FlowRun", {"deploymentRef": {"name": "nightly"}})
    worker = await owner(ours, "TaskWorker", {"image": site.image, "tasks": ["work.py:double"]})
    try:
        yield Place(make, run, worker, site.image, ours.delete)
    finally:
        for watch in watches:
            watch.cancel()
        ends = await asyncio.gather(*watches, return_exceptions=True)
        for key in (run.key, worker.key):
            with contextlib.suppress(NotFound):
                await ours.delete(key)
        await client.close()
        assert [end for end in ends if not isinstance(end, asyncio.CancelledError)] == [], "a watch ended by itself"


CHILDREN = [source for source in sources(TABLE) if source.resource not in RESOURCES.values()]


@dataclass(frozen=True)
class Heard:
    """In the place of the loop, which would reconcile the owners of what the informers hear of."""

    enqueue: Callable[[Key], None]

    def changed(self, manifest: Manifest) -> None:
        """Nobody looks at our resources here."""

    def known(self, kind: Kind, namespace: str | None = None) -> list[Manifest]:
        return []


async def follow(client: Client, informers: Informers, source: Source) -> None:
    """Let the informers hear of one kind, as kopf does in the operator; kopf itself may take the process with it."""
    path = source.resource.path(NAMESPACE)
    items, version = await client.list(path, labels=source.labels, fields=source.fields)
    for item in items:
        informers.hear(source, None, item)
    async for event in client.watch(path, version, labels=source.labels, fields=source.fields):
        if event["type"] != "BOOKMARK":
            informers.hear(source, event["type"], event["object"])


async def owner(ours: KubernetesCluster, kind: Kind, spec: dict[str, Any]) -> Owner:
    """Created under a name that no earlier test had."""
    metadata = {"generateName": f"{kind.lower()}-", "namespace": NAMESPACE}
    made = await ours.create({"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec})
    return Owner(key_of_manifest(made), made["metadata"]["uid"])


@pytest.fixture
def on(site: Site) -> On:
    return over(lambda: kubernetes(site))
