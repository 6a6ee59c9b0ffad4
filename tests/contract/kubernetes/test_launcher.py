"""Jobs and workers on a real API server without controllers: what is created, refused, and never created twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from tests.contract.apiserver import ApiServer

from kapstan import ids
from kapstan.cluster.kubernetes.cache import Cache
from kapstan.cluster.kubernetes.client import APP_DEPLOYMENTS, JOBS, PODS, Client
from kapstan.cluster.kubernetes.launcher import KubernetesLauncher
from kapstan.errors import ForeignObject, InvalidResource, NotFound
from kapstan.ports import JobRequest, Key, WorkersRequest

API = "kapstan.dev/v1alpha1"
RUN = Key("FlowRun", "default", "etl-1")
WORKER = Key("TaskWorker", "default", "mail")


def request(uid: str = "uid-1", pool: dict[str, Any] | None = None) -> JobRequest:
    return JobRequest(
        run=RUN,
        uid=uid,
        run_id=ids.derived_id("run"),
        attempt=1,
        job="etl-1-1",
        deployment={
            "apiVersion": API,
            "kind": "Deployment",
            "metadata": {"name": "etl", "namespace": "default"},
            "spec": {"flow": {"entrypoint": "etl:main", "image": "etl:1"}, "workPoolRef": {"name": "p"}},
        },
        pool={
            "apiVersion": API,
            "kind": "WorkPool",
            "metadata": {"name": "p", "namespace": "default"},
            "spec": pool or {},
        },
    )


def workers(replicas: int, uid: str = "uid-2", image: str = "mail:1") -> WorkersRequest:
    metadata = {"name": WORKER.name, "namespace": "default", "uid": uid}
    spec = {"image": image, "tasks": ["shop.tasks"]}
    return WorkersRequest({"apiVersion": API, "kind": "TaskWorker", "metadata": metadata, "spec": spec}, replicas)


@contextlib.asynccontextmanager
async def launching(server: ApiServer) -> AsyncGenerator[tuple[Client, KubernetesLauncher]]:
    client = await Client.connect(str(server.kubeconfig()))
    try:
        async with asyncio.timeout(30):
            yield client, KubernetesLauncher(client, Cache())
    finally:
        for resource in (JOBS, PODS, APP_DEPLOYMENTS):
            await client.delete(resource.path("default"))
        await client.close()


def test_an_attempt_is_created_once(api_server: ApiServer) -> None:
    async def body() -> None:
        async with launching(api_server) as (client, launcher):
            await launcher.start(request())
            (seen,) = await launcher.observe_attempts(RUN, "uid-1", [(1, "etl-1-1")])
            assert (seen.exists, seen.running, seen.ended) == (True, False, False)
            made = await client.get(JOBS.path("default", "etl-1-1"))
            # A restarted operator knows nothing of it and asks again.
            again = KubernetesLauncher(client, Cache())
            await again.start(request())
            found = await client.get(JOBS.path("default", "etl-1-1"))
            assert found["metadata"]["uid"] == made["metadata"]["uid"]
            (seen,) = await again.observe_attempts(RUN, "uid-1", [(1, "etl-1-1")])
            assert seen.exists

    asyncio.run(body())


def test_a_job_of_somebody_else_is_not_taken_for_ours(api_server: ApiServer) -> None:
    async def body() -> None:
        async with launching(api_server) as (_, launcher):
            await launcher.start(request(uid="uid-of-an-older-run"))
            with pytest.raises(ForeignObject, match="delete or rename it"):
                await launcher.start(request())
            (seen,) = await launcher.observe_attempts(RUN, "uid-1", [(1, "etl-1-1")])
            assert not seen.exists

    asyncio.run(body())


def test_a_pod_that_was_orphaned_is_seen_and_stopped(api_server: ApiServer) -> None:
    """`kubectl delete job --cascade=orphan` takes the pod's owner away; it runs on."""

    async def body() -> None:
        async with launching(api_server) as (client, _):
            cache = Cache()
            launcher = KubernetesLauncher(client, cache)
            await launcher.start(request())
            job = await client.get(JOBS.path("default", "etl-1-1"))
            template = job["spec"]["template"]
            labels = template["metadata"]["labels"] | {"batch.kubernetes.io/job-name": "etl-1-1"}
            metadata = {"name": "etl-1-1-x", "annotations": template["metadata"]["annotations"], "labels": labels}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
            cache.put_pod(await client.create(PODS.path("default"), pod, field_manager="test"))
            cache.jobs.remove(job)
            await client.delete(JOBS.path("default", "etl-1-1"))
            (seen,) = await launcher.observe_attempts(RUN, "uid-1", [(1, "etl-1-1")])
            assert (seen.exists, seen.pod) == (True, "etl-1-1-x")
            await launcher.stop(RUN, "uid-1", "etl-1-1", grace=1)
            with pytest.raises(NotFound):
                await client.get(PODS.path("default", "etl-1-1-x"))

    asyncio.run(body())


def test_a_workers_template_that_somebody_edited_is_put_right(api_server: ApiServer) -> None:
    async def body() -> None:
        async with launching(api_server) as (client, _):
            cache = Cache()
            launcher = KubernetesLauncher(client, cache)
            await launcher.ensure_workers(workers(1))
            path = APP_DEPLOYMENTS.path("default", "mail-workers")
            edit = {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "evil:1"}
            cache.app_deployments.put(
                await client.patch(path, [edit], field_manager="kubectl", content_type="application/json-patch+json")
            )
            await launcher.ensure_workers(workers(1))
            put_right = await client.get(path)
            assert put_right["spec"]["template"]["spec"]["containers"][0]["image"] == "mail:1"
            await launcher.ensure_workers(workers(1))
            assert (await client.get(path))["metadata"]["generation"] == put_right["metadata"]["generation"]

    asyncio.run(body())


def foreign_job(name: str, **metadata: Any) -> dict[str, Any]:
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "migrate", "image": "migrate:1"}]}}
    metadata = {"name": name, "namespace": "default", **metadata}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": template}}


@pytest.mark.parametrize("watched", [False, True])
def test_a_job_of_somebody_else_is_neither_stopped_nor_removed(api_server: ApiServer, watched: bool) -> None:
    """It was there before the run, with labels of ours or without, in the operator's cache or not."""

    async def body() -> None:
        async with launching(api_server) as (client, _):
            cache = Cache()
            launcher = KubernetesLauncher(client, cache)
            labels = {"kapstan.dev/flow-run": RUN.name, "app.kubernetes.io/managed-by": "kapstan"}
            theirs = await client.create(
                JOBS.path("default"), foreign_job("etl-1-1", labels=labels), field_manager="test"
            )
            owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "etl-1-1", "uid": theirs["metadata"]["uid"]}
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": "etl-1-1-x",
                    "labels": labels | {"batch.kubernetes.io/job-name": "etl-1-1"},
                    "ownerReferences": [owner],
                },
                "spec": {"containers": [{"name": "flow", "image": "etl:1"}]},
            }
            made = await client.create(PODS.path("default"), pod, field_manager="test")
            if watched:
                cache.jobs.put(theirs)
                cache.put_pod(made)
            await launcher.stop(RUN, "uid-1", "etl-1-1", grace=1)
            await launcher.remove(RUN, "uid-1", "etl-1-1")
            for path in (JOBS.path("default", "etl-1-1"), PODS.path("default", "etl-1-1-x")):
                assert "deletionTimestamp" not in (await client.get(path))["metadata"]

    asyncio.run(body())


def test_a_job_that_took_the_name_since_the_last_watch_is_not_removed(api_server: ApiServer) -> None:
    async def body() -> None:
        async with launching(api_server) as (client, launcher):
            await launcher.start(request())
            await client.delete(JOBS.path("default", "etl-1-1"))
            theirs = await client.create(JOBS.path("default"), foreign_job("etl-1-1"), field_manager="test")
            await launcher.remove(RUN, "uid-1", "etl-1-1")
            found = await client.get(JOBS.path("default", "etl-1-1"))
            assert found["metadata"]["uid"] == theirs["metadata"]["uid"]

    asyncio.run(body())


def test_pods_that_only_bear_our_labels_are_no_members(api_server: ApiServer) -> None:
    async def body() -> None:
        async with launching(api_server) as (client, _):
            cache = Cache()
            launcher = KubernetesLauncher(client, cache)
            await launcher.ensure_workers(workers(1))
            template = (await client.get(APP_DEPLOYMENTS.path("default", "mail-workers")))["spec"]["template"]
            for name, metadata in (
                ("ours", template["metadata"]),
                ("theirs", {"labels": template["metadata"]["labels"]}),
            ):
                pod = {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": name, **metadata},
                    "spec": template["spec"],
                }
                cache.put_pod(await client.create(PODS.path("default"), pod, field_manager="test"))
            assert [member.name for member in (await launcher.observe_workers(WORKER, "uid-2")).members] == ["ours"]

    asyncio.run(body())


def test_a_pod_that_outlives_its_job_is_not_taken_for_that_of_a_namesake(api_server: ApiServer) -> None:
    async def body() -> None:
        async with launching(api_server) as (client, _):
            cache = Cache()
            launcher = KubernetesLauncher(client, cache)
            await launcher.start(request(uid="uid-of-an-older-run"))
            job = await client.get(JOBS.path("default", "etl-1-1"))
            owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "etl-1-1", "uid": job["metadata"]["uid"]}
            labels = {"batch.kubernetes.io/job-name": "etl-1-1"}
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": "etl-1-1-x",
                    "labels": labels,
                    "annotations": {"kapstan.dev/owner-uid": "uid-of-an-older-run"},
                    "ownerReferences": [owner],
                },
                "spec": {"containers": [{"name": "flow", "image": "etl:1"}]},
            }
            cache.put_pod(await client.create(PODS.path("default"), pod, field_manager="test"))
            cache.jobs.remove(job)
            for uid, exists in (("uid-of-an-older-run", True), ("uid-1", False)):
                (seen,) = await launcher.observe_attempts(RUN, uid, [(1, "etl-1-1")])
                assert seen.exists == exists, uid

    asyncio.run(body())


def test_a_template_that_is_no_pod_is_refused_in_the_servers_words(api_server: ApiServer) -> None:
    async def body() -> None:
        async with launching(api_server) as (_, launcher):
            template = {"spec": {"containers": [{"name": "flow", "resources": {"limits": {"memory": "much"}}}]}}
            with pytest.raises(InvalidResource, match="quantities must match"):
                await launcher.start(request(pool={"podTemplate": template}))
            with pytest.raises(InvalidResource, match=r'unknown field "spec\.template\.spec\.nodeselector"'):
                await launcher.start(request(pool={"podTemplate": {"spec": {"nodeselector": {}}}}))

    asyncio.run(body())


def test_stopping_and_removing_what_is_gone_is_no_error(api_server: ApiServer) -> None:
    async def body() -> None:
        async with launching(api_server) as (client, launcher):
            await launcher.start(request())
            await launcher.stop(RUN, "uid-1", "etl-1-1", grace=1)
            with pytest.raises(NotFound):
                await client.get(JOBS.path("default", "etl-1-1"))
            await launcher.stop(RUN, "uid-1", "etl-1-1", grace=1)
            await launcher.remove(RUN, "uid-1", "etl-1-1")

    asyncio.run(body())


def test_workers_follow_what_is_asked(api_server: ApiServer) -> None:
    async def body() -> None:
        async with launching(api_server) as (client, launcher):
            path = APP_DEPLOYMENTS.path("default", "mail-workers")
            await launcher.ensure_workers(workers(2))
            first = await client.get(path)
            observed = await launcher.observe_workers(WORKER, "uid-2")
            assert (observed.wanted, observed.selector) == (2, "kapstan.dev/task-worker=mail")
            await launcher.ensure_workers(workers(2))
            assert (await client.get(path))["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
            await launcher.ensure_workers(workers(5, image="mail:2"))
            changed = await client.get(path)
            assert changed["spec"]["replicas"] == 5
            assert changed["spec"]["template"]["spec"]["containers"][0]["image"] == "mail:2"
            assert (await launcher.observe_workers(WORKER, "uid-2")).template_hash != observed.template_hash

    asyncio.run(body())


def test_a_deployment_of_apps_that_is_not_ours_is_left_alone(api_server: ApiServer) -> None:
    async def body() -> None:
        async with launching(api_server) as (client, launcher):
            await launcher.ensure_workers(workers(1, uid="somebody"))
            with pytest.raises(ForeignObject, match="delete or rename it"):
                await KubernetesLauncher(client, Cache()).ensure_workers(workers(1))

    asyncio.run(body())


def test_the_deletion_cost_is_answered(api_server: ApiServer) -> None:
    async def body() -> None:
        async with launching(api_server) as (client, launcher):
            labels = {"kapstan.dev/task-worker": "mail"}
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "mail-1", "labels": labels, "annotations": {"kapstan.dev/owner-uid": "uid-2"}},
                "spec": {"containers": [{"name": "worker", "image": "mail:1"}]},
            }
            await client.create(PODS.path("default"), pod, field_manager="test")
            await launcher.set_deletion_cost(WORKER, "mail-1", -100)
            (member,) = (await launcher.observe_workers(WORKER, "uid-2")).members
            assert member.deletion_cost == -100
            await launcher.set_deletion_cost(WORKER, "nobody", -100)

    asyncio.run(body())
