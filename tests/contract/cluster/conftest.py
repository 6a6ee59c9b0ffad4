"""The adapters of ``ports.Cluster`` that the suite is run over.

An adapter is an async context manager that gives a ``Cluster`` without any objects. A further one is added here, as one
more entry of ``ADAPTERS`` that takes the request of the test (so that it may ask for a fixture of its own).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from tests.contract.apiserver import ApiServer

from kapstan.cluster.kubernetes.client import Client
from kapstan.cluster.kubernetes.cluster import RESOURCES, KubernetesCluster
from kapstan.cluster.local.cluster import LocalCluster
from kapstan.ports import Cluster

Adapter = Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Cluster]]


@contextlib.asynccontextmanager
async def local(request: pytest.FixtureRequest) -> AsyncGenerator[Cluster]:
    path: Path = request.getfixturevalue("tmp_path")
    cluster = LocalCluster(path / "cluster")
    yield cluster
    await cluster.close()


@contextlib.asynccontextmanager
async def kubernetes(request: pytest.FixtureRequest) -> AsyncGenerator[Cluster]:
    server: ApiServer = request.getfixturevalue("api_server")
    cluster = KubernetesCluster(await Client.connect(str(server.kubeconfig())))
    try:
        yield cluster
    finally:
        for resource in RESOURCES.values():
            await cluster.client.delete(resource.path("default"))
        await cluster.close()


ADAPTERS: dict[str, Adapter] = {"local": local, "kubernetes": kubernetes}


@pytest.fixture(params=sorted(ADAPTERS))
def on(request: pytest.FixtureRequest) -> Callable[[Callable[[Cluster], Coroutine[Any, Any, None]]], None]:
    """Runs an async test body over an adapter, within its time."""

    def run(body: Callable[[Cluster], Coroutine[Any, Any, None]]) -> None:
        async def inside() -> None:
            async with asyncio.timeout(60), ADAPTERS[request.param](request) as cluster:
                await body(cluster)

        asyncio.run(inside())

    return run
