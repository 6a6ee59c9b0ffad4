"""What every ``ports.Cluster`` promises."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from kapstan.errors import InvalidResource, NotFound, ResourceConflict
from kapstan.ports import Cluster, Key, Manifest
from kapstan.resources import API_VERSION

On = Callable[[Callable[[Cluster], Coroutine[Any, Any, None]]], None]
NAMESPACE = "default"
POOL = Key("WorkPool", NAMESPACE, "pool")
WORKER = Key("TaskWorker", NAMESPACE, "mailer")


def manifest(key: Key, spec: dict[str, Any] | None = None, **metadata: Any) -> Manifest:
    return {
        "apiVersion": API_VERSION,
        "kind": key.kind,
        "metadata": {"name": key.name, "namespace": key.namespace, **metadata},
        "spec": spec or {},
    }


def run_named(name: str, **metadata: Any) -> Manifest:
    return manifest(Key("FlowRun", NAMESPACE, name), {"deploymentRef": {"name": "nightly"}}, **metadata)


def worker(**spec: Any) -> Manifest:
    return manifest(WORKER, {"tasks": ["shop.tasks"], **spec})


def test_what_is_created_is_read_back_with_its_identity_and_defaults(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        assert await cluster.get(POOL) is None
        made = await cluster.create(manifest(POOL, labels={"team": "shop"}))
        assert await cluster.get(POOL) == made
        assert made["metadata"]["generation"] == 1
        assert made["metadata"]["uid"]
        assert made["metadata"]["creationTimestamp"].endswith("Z")
        assert made["metadata"]["labels"] == {"team": "shop"}
        assert made["spec"]["concurrency"]["launchesPerSecond"] == 10

    on(body)


def test_no_name_is_no_object_and_never_all_of_them(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        await cluster.create(manifest(POOL))
        nameless = Key("WorkPool", NAMESPACE, "")
        assert await cluster.get(nameless) is None
        with pytest.raises((InvalidResource, NotFound)):
            await cluster.delete(nameless)
        assert await cluster.get(POOL) is not None

    on(body)


def test_a_name_is_given_once(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        await cluster.create(manifest(POOL))
        with pytest.raises(ResourceConflict):
            await cluster.create(manifest(POOL))

    on(body)


def test_two_who_create_at_once_make_one(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        answers = await asyncio.gather(*(cluster.create(manifest(POOL)) for _ in range(8)), return_exceptions=True)
        made = [answer for answer in answers if isinstance(answer, dict)]
        assert len(made) == 1
        assert sum(isinstance(answer, ResourceConflict) for answer in answers) == 7
        assert await cluster.get(POOL) == made[0]

    on(body)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (manifest(POOL, {"concurrency": {"maxInFlight": 0}}), "spec.concurrency.maxInFlight"),
        (worker(autoscaling={"minReplicas": 3, "maxReplicas": 2}), "spec.autoscaling.minReplicas"),
        (manifest(POOL._replace(name="Not_A_Name")), "metadata.name"),
    ],
)
def test_a_bad_object_is_refused_by_field(on: On, bad: Manifest, field: str) -> None:
    async def body(cluster: Cluster) -> None:
        for change in (cluster.create, cluster.apply):
            with pytest.raises(InvalidResource) as refused:
                await change(bad)
            assert field in str(refused.value)

    on(body)


def test_apply_creates_changes_and_leaves_alone(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        first = await cluster.apply(manifest(POOL))
        same = await cluster.apply(manifest(POOL))
        assert same["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        changed = await cluster.apply(manifest(POOL, {"suspend": True}))
        assert changed["spec"]["suspend"] is True
        assert changed["metadata"]["generation"] == 2
        assert changed["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"]
        assert changed["metadata"]["uid"] == first["metadata"]["uid"]

    on(body)


def test_what_is_immutable_stays(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        await cluster.apply(run_named("run"))
        other = run_named("run")
        other["spec"]["deploymentRef"] = {"name": "other"}
        with pytest.raises(InvalidResource) as refused:
            await cluster.apply(other)
        assert "deploymentRef is immutable" in str(refused.value)

    on(body)


def test_an_apply_with_an_old_version_is_refused(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        first = await cluster.apply(manifest(POOL))
        await cluster.apply(manifest(POOL, {"suspend": True}))
        old = manifest(POOL, resourceVersion=first["metadata"]["resourceVersion"])
        with pytest.raises(ResourceConflict):
            await cluster.apply(old)

    on(body)


def test_status_and_spec_keep_out_of_each_others_way(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        made = await cluster.create({**manifest(POOL), "status": {"inFlight": 9}})
        assert made.get("status", {}).get("inFlight", 0) != 9
        uid = made["metadata"]["uid"]
        told = await cluster.set_status(POOL, {"inFlight": 3}, uid=uid)
        assert told["status"]["inFlight"] == 3
        assert told["metadata"]["generation"] == 1
        changed = await cluster.apply(manifest(POOL, {"suspend": True}))
        assert changed["status"]["inFlight"] == 3
        again = await cluster.set_status(POOL, {"inFlight": 0, "queued": 1}, uid=uid)
        assert again["status"]["queued"] == 1
        assert again["spec"]["suspend"] is True

    on(body)


def test_a_status_decided_on_an_old_view_is_refused(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        made = await cluster.create(manifest(POOL))
        uid, version = made["metadata"]["uid"], made["metadata"]["resourceVersion"]
        told = await cluster.set_status(POOL, {"inFlight": 1}, uid=uid, resource_version=version)
        with pytest.raises(ResourceConflict):
            await cluster.set_status(POOL, {"inFlight": 2}, uid=uid, resource_version=version)
        version = told["metadata"]["resourceVersion"]
        await cluster.set_status(POOL, {"inFlight": 2}, uid=uid, resource_version=version)

    on(body)


def test_a_status_for_an_object_that_was_made_anew_is_refused(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        old = await cluster.create(manifest(POOL))
        await cluster.delete(POOL)
        with pytest.raises(NotFound):
            await cluster.set_status(POOL, {"inFlight": 1}, uid=old["metadata"]["uid"])
        new = await cluster.create(manifest(POOL))
        assert new["metadata"]["uid"] != old["metadata"]["uid"]
        with pytest.raises(NotFound):
            await cluster.set_status(POOL, {"inFlight": 1}, uid=old["metadata"]["uid"])

    on(body)


def test_scale(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        await cluster.apply(worker())
        await cluster.set_scale(WORKER, 4)
        stored = await cluster.get(WORKER)
        assert stored is not None
        assert (stored["spec"]["replicas"], stored["metadata"]["generation"]) == (4, 2)
        kept = await cluster.apply(worker(concurrency=2))
        assert kept["spec"]["replicas"] == 4
        with pytest.raises(NotFound):
            await cluster.set_scale(WORKER._replace(name="nobody"), 1)

    on(body)


def test_list_by_kind_namespace_and_labels(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        await cluster.create(run_named("a", labels={"schedule": "x"}))
        await cluster.create(run_named("b"))
        await cluster.create(manifest(POOL))
        names = [run["metadata"]["name"] for run in await cluster.list("FlowRun", NAMESPACE)]
        assert names == ["a", "b"]
        labelled = await cluster.list("FlowRun", NAMESPACE, labels={"schedule": "x"})
        assert [run["metadata"]["name"] for run in labelled] == ["a"]
        assert await cluster.list("FlowRun", "elsewhere") == []
        assert len(await cluster.list("WorkPool")) == 1

    on(body)


def test_delete(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        await cluster.create(manifest(POOL))
        await cluster.delete(POOL)
        assert await cluster.get(POOL) is None
        with pytest.raises(NotFound):
            await cluster.delete(POOL)

    on(body)


def test_a_delete_with_a_uid_leaves_a_namesake_alone(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        first = await cluster.create(manifest(POOL))
        await cluster.delete(POOL, uid=first["metadata"]["uid"])
        second = await cluster.create(manifest(POOL))
        with pytest.raises(ResourceConflict):
            await cluster.delete(POOL, uid=first["metadata"]["uid"])
        stored = await cluster.get(POOL)
        assert stored is not None
        assert stored["metadata"]["uid"] == second["metadata"]["uid"]

    on(body)


def test_changes_tell_what_is_there_and_then_what_happens(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        await cluster.create(manifest(POOL))
        heard: asyncio.Queue[tuple[str, str, Any]] = asyncio.Queue()

        async def listen() -> None:
            async for change, found in cluster.changes(("WorkPool", "FlowRun")):
                heard.put_nowait((change, found["metadata"]["name"], found["spec"].get("suspend")))

        listening = asyncio.create_task(listen())
        assert await heard.get() == ("changed", "pool", False)
        await cluster.apply(manifest(POOL, {"suspend": True}))
        assert await heard.get() == ("changed", "pool", True)
        await cluster.create(worker())
        await cluster.create(run_named("run"))
        assert await heard.get() == ("changed", "run", False)
        await cluster.delete(POOL)
        assert await heard.get() == ("deleted", "pool", True)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)

    on(body)


def test_events_are_taken(on: On) -> None:
    async def body(cluster: Cluster) -> None:
        made = await cluster.create(manifest(POOL))
        await cluster.emit(POOL, uid=made["metadata"]["uid"], severity="Warning", reason="Full", message="no room")

    on(body)
