"""The control plane's duty: when it sweeps, what FlowRuns keep from it, and what it does about a store that is away."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.contract.retention.makers import AGES, ALL, Shop
from tests.servers.minio import free_port

from kapstan import ids
from kapstan.backend import Backend
from kapstan.cluster.local.cluster import LocalCluster
from kapstan.errors import ClusterUnavailable
from kapstan.ports import Cluster, Manifest
from kapstan.reconcile.retention import Retention
from kapstan.runs import parameters


def flow_run(name: str, run_id: str = "", **spec: Any) -> Manifest:
    status = {"runId": str(ids.to_uuid(run_id)), "phase": "Completed"} if run_id else {}
    return {
        "apiVersion": "kapstan.dev/v1alpha1",
        "kind": "FlowRun",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"deploymentRef": {"name": "nightly"}, **spec},
        "status": status,
    }


class Objects:
    """The FlowRuns of a cluster; None: it does not answer."""

    def __init__(self, *manifests: Manifest) -> None:
        self.manifests: tuple[Manifest, ...] | None = manifests

    async def each(self, kind: str, namespace: str | None = None) -> AsyncIterator[Manifest]:
        assert (kind, namespace) == ("FlowRun", "default")
        if self.manifests is None:
            raise ClusterUnavailable("no API server")
        for manifest in self.manifests:
            yield manifest


class Turns:
    """A clock by hand: each wait is noted and over at once, until there were enough."""

    def __init__(self, turns: int) -> None:
        self.left = turns
        self.waited: list[float] = []

    async def __call__(self, seconds: float) -> bool:
        self.waited.append(seconds)
        self.left -= 1
        return self.left < 0


def duty(shop: Shop, cluster: Any, **options: Any) -> Retention:
    return Retention(AGES, cluster, lambda: ["default"], lambda _: shop.backend, now=lambda: shop.now, **options)


def swept(retention: Retention, turns: int = 1) -> Turns:
    waits = Turns(turns)

    async def work() -> None:
        await retention.run(asyncio.Event(), waits)

    asyncio.run(work())
    return waits


def test_it_sweeps_once_in_an_interval_give_or_take(shop: Shop) -> None:
    run_id = shop.run()
    shop.later = 31
    jitter = iter([0.0, 1.0, 0.5, 0.0])
    waits = swept(duty(shop, Objects(), jitter=lambda: next(jitter)), 3)
    assert waits.waited == pytest.approx([324, 3960, 3600, 3240])
    assert shop.left(run_id) == {"grave"}


def test_without_an_age_nothing_is_looked_at(shop: Shop) -> None:
    retention = Retention(None, Objects(), lambda: 1 / 0, lambda _: shop.backend)  # type: ignore[arg-type]
    assert swept(retention).waited == []


def test_a_flow_run_that_exists_keeps_its_journal_and_parameters(shop: Shop) -> None:
    kept, gone, other = (shop.run(deployment="nightly") for _ in range(3))
    named, unnamed = (parameters.write(shop.backend, {"x": x}) for x in (1, 2))
    cluster = Objects(flow_run("a", kept), flow_run("b", parametersRef={"key": named}))
    shop.later = 31
    retention = duty(shop, cluster)
    swept(retention)
    assert [shop.left(run_id) for run_id in (kept, gone, other)] == [ALL, {"grave"}, {"grave"}]
    assert list(shop.store.keys("parameters/")) == [named] != [unnamed]
    assert retention.last["default"]["went"] == {"journal": 2, "definition": 2, "value": 8, "parameters": 1}
    assert retention.last["default"]["kept"] == {"held": 2}
    cluster.manifests = ()
    swept(retention)
    assert shop.left(kept) == {"grave"}


def test_a_run_is_known_by_its_object_before_that_has_a_status(shop: Shop) -> None:
    from kapstan.reconcile.naming import run_id_of_key

    run_id = shop.run(run_id=run_id_of_key("default", "nightly", "bill-7"), deployment="nightly")
    shop.later = 31
    swept(duty(shop, Objects(flow_run("again", idempotencyKey="bill-7"))))
    assert shop.left(run_id) == ALL


def test_where_not_all_flow_runs_are_seen_what_deployments_made_stays(shop: Shop) -> None:
    made, own = shop.run(deployment="nightly"), shop.run()
    shop.later = 31
    swept(duty(shop, Objects(), sees_all=False))
    assert (shop.left(made), shop.left(own)) == (ALL, {"grave"})


def test_what_is_away_is_logged_once_and_tried_again(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    run_id = shop.run()
    shop.later = 31
    cluster = Objects()
    cluster.manifests = None
    retention = duty(shop, cluster)
    with caplog.at_level(logging.INFO, "kapstan.retention"):
        swept(retention, 3)
        assert [record.message for record in caplog.records] == [
            "retention of namespace default is put off: no API server"
        ]
        assert retention.last["default"] == {"error": "no API server", "failures": 3}
        assert shop.left(run_id) == ALL
        cluster.manifests = ()
        swept(retention)
    assert [record.message.partition(":")[0] for record in caplog.records[1:]] == [
        "retention of namespace default works again",
        "retention of namespace default",
    ]
    assert retention.last["default"]["failures"] == 3
    assert shop.left(run_id) == {"grave"}


def test_a_store_that_is_away_in_one_namespace_keeps_no_other_waiting(shop: Shop) -> None:
    run_id = shop.run()
    shop.later = 31
    away = dataclasses.replace(
        shop.backend.settings,
        s3_endpoint=f"http://127.0.0.1:{free_port()}",
        s3_access_key="a",
        s3_secret_key="b",
        store_deadline_seconds=0.1,
    )
    backends = {"away": Backend(away), "default": shop.backend, "odd": None}
    cluster = Objects()

    class Both(Objects):
        async def each(self, kind: str, namespace: str | None = None) -> AsyncIterator[Manifest]:
            async for manifest in cluster.each(kind, "default"):
                yield manifest

    both: Cluster = Both()  # type: ignore[assignment]
    retention = Retention(AGES, both, lambda: backends, lambda name: backends[name], now=lambda: shop.now)  # type: ignore[arg-type, return-value]
    swept(retention)
    assert shop.left(run_id) == {"grave"}
    assert "gave no answer" in retention.last["away"]["error"]
    assert retention.last["odd"]["failures"] == 1
    backends["away"].close()  # type: ignore[union-attr]


def test_it_ends_at_once_when_the_process_is_to_end(shop: Shop) -> None:
    runs = [shop.run(tasks=0) for _ in range(5)]
    shop.later = 31
    retention = duty(shop, Objects())

    async def work() -> None:
        stop = asyncio.Event()
        look = shop.store.log

        def ending(name: str) -> Any:
            loop.call_soon_threadsafe(stop.set)
            assert retention._ending.wait(10)
            return look(name)

        loop = asyncio.get_running_loop()
        shop.store.log = ending  # type: ignore[method-assign]
        first = True

        async def wait(_: float) -> bool:
            nonlocal first
            again, first = first, False
            return not again

        await retention.run(stop, wait)
        shop.store.log = look  # type: ignore[method-assign]

    asyncio.run(work())
    buried = [run_id for run_id in runs if shop.left(run_id) == {"grave"}]
    assert len(buried) == 1, "what was begun was finished, and no more"


def test_the_local_cluster_tells_of_its_flow_runs(shop: Shop) -> None:
    if shop.backend.settings.s3_endpoint:
        return
    run_id = shop.run()
    shop.later = 31
    cluster = LocalCluster.from_settings(shop.backend.settings)

    async def made() -> None:
        manifest = flow_run("a")
        del manifest["status"]
        manifest["metadata"] = {"name": "a", "namespace": "default"}
        stored = await cluster.create(manifest)
        from kapstan.ports import Key

        await cluster.set_status(
            Key("FlowRun", "default", "a"), {"runId": str(ids.to_uuid(run_id))}, uid=stored["metadata"]["uid"]
        )

    asyncio.run(made())
    swept(duty(shop, cluster))
    assert shop.left(run_id) == ALL
