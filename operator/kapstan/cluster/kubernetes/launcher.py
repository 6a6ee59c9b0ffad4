"""``ports.Launcher`` on an API server: Jobs for attempts of flow runs, Deployments of apps/v1 for TaskWorkers.

A Job is created by POST, never applied: an apply is an upsert and would start a finished attempt again. Observing
reads the cache that the watches fill, so that a reconcile costs no request. Called by the reconcile loop; who may
start what, and when, is decided there.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

from kapstan.cluster.kubernetes import observe, render
from kapstan.cluster.kubernetes.cache import Cache, is_for, is_owned, items, within
from kapstan.cluster.kubernetes.client import APP_DEPLOYMENTS, JOBS, PODS, Client
from kapstan.cluster.kubernetes.cluster import FIELD_MANAGER
from kapstan.errors import ForeignObject, NotFound, ResourceConflict
from kapstan.ports import AttemptObservation, JobRequest, Key, Manifest, WorkerObservation, WorkersRequest

log = logging.getLogger("kapstan.operator")

SHORTEST_GRACE = 1.0
"""Without any, the API server forgets a pod at once, whether its process has ended or not."""


class KubernetesLauncher:
    """Starts, stops and observes through ``client`` and ``cache``; whoever made those keeps and closes them.

    Args:
        restricted: refuse pod templates that ask for more than Pod Security `restricted` allows.
        redis: where pods find the address of Redis; None: in ``render.WORKLOAD_SECRET``.
    """

    def __init__(
        self,
        client: Client,
        cache: Cache,
        *,
        field_manager: str = FIELD_MANAGER,
        restricted: bool = True,
        redis: render.SecretKey | None = None,
    ) -> None:
        self._restricted = restricted
        self._redis = redis
        self._client = client
        self._cache = cache
        self._manager = field_manager
        self._applied: dict[str, int] = {}
        """By TaskWorker: generation of its apps/v1 Deployment after our apply; any other one is somebody's edit."""

    @property
    def flavour(self) -> Literal["job", "process"]:
        return "job"

    # ------------------------------------------------------------------ attempts

    async def start(self, request: JobRequest) -> None:
        """Create the attempt's Job.

        Raises:
            InvalidResource: it cannot be rendered, or the API server refuses the pod template, with its words.
            ForeignObject: a Job of that name belongs to somebody else.
            QuotaUsedUp, AdmissionRefused, ClusterRefused: see there.
        """
        namespace = request.run.namespace
        try:
            job = render.job(request, restricted=self._restricted, redis=self._redis)
            made = await self._client.create(JOBS.path(namespace), job, field_manager=self._manager)
        except ResourceConflict:
            made = await self._client.get(JOBS.path(namespace, request.job))
            if not is_owned(made, request.uid):
                raise ForeignObject(
                    f"a Job {namespace}/{request.job} is there that does not belong to FlowRun {request.run.name!r}: "
                    "delete or rename it"
                ) from None
        self._cache.jobs.put(made)

    async def stop(self, run: Key, uid: str, job: str, *, grace: float) -> None:
        """Delete the pod with ``grace``, then the Job: what is seen of the pod while it goes tells how it ended."""
        found = self._cache.jobs.get(run.namespace, job) or self._cache.jobs.gone.get((run.namespace, job))
        ours = found["metadata"]["uid"] if found is not None and is_owned(found, uid) else None
        for pod in list(self._cache.attempt_pods.of(run.namespace, job)):
            metadata = pod["metadata"]
            if is_for(pod, uid) or (ours is not None and is_owned(pod, ours)):
                path = PODS.path(run.namespace, metadata["name"])
                await self._delete(path, grace=max(grace, SHORTEST_GRACE), uid=metadata["uid"])
        await self.remove(run, uid, job)

    async def remove(self, run: Key, uid: str, job: str) -> None:
        path = JOBS.path(run.namespace, job)
        found = self._cache.jobs.get(run.namespace, job) or await self._get(path)
        if found is None:
            return
        if not is_owned(found, uid):
            log.warning("Job %s/%s is not of FlowRun %s (uid %s): it is left alone", run.namespace, job, run.name, uid)
            return
        await self._delete(path, uid=found["metadata"]["uid"])

    async def observe_attempts(self, run: Key, uid: str, jobs: Sequence[tuple[int, str]]) -> list[AttemptObservation]:
        return [self._observe(run.namespace, uid, number, name) for number, name in jobs]

    def _observe(self, namespace: str, uid: str, number: int, name: str) -> AttemptObservation:
        job = self._cache.jobs.get(namespace, name)
        last = job or self._cache.jobs.gone.get((namespace, name))
        if last is not None and not is_owned(last, uid):  # that of a namesake, and so are its pods
            return observe.attempt(number, name, None, None, gone=True)
        pod, gone = self._pod_of(namespace, uid, name, last)
        refusal = self._cache.refusals.get((namespace, name), "")
        return observe.attempt(number, name, job, pod, gone=gone, refusal=refusal)

    def _pod_of(self, namespace: str, owner: str, name: str, job: Manifest | None) -> tuple[Manifest | None, bool]:
        """The pod of a Job (None: one that was never seen), or the last that was seen of it; whether it is gone."""
        uid = within(job, "metadata").get("uid")

        def ours(pod: Manifest) -> bool:
            # A pod that was orphaned (its Job deleted, and not it) has no owner any more and still runs the attempt.
            orphan = uid is None or not items(pod["metadata"], "ownerReferences")
            return is_for(pod, owner) if orphan else is_owned(pod, str(uid))

        for pod in self._cache.attempt_pods.of(namespace, name):
            if ours(pod):
                return pod, False
        for pod in self._cache.attempt_pods.gone_of(namespace, name):
            if ours(pod):
                return pod, True
        return None, False

    # ------------------------------------------------------------------ workers

    async def ensure_workers(self, request: WorkersRequest) -> None:
        """Apply the apps/v1 Deployment; it takes the member of lowest deletion cost away first.

        Raises:
            InvalidResource: it cannot be rendered, or the API server refuses the pod template, with its words.
            ForeignObject: a Deployment of apps/v1 of that name belongs to somebody else.
            ClusterRefused: no rights, or an admission rule.
        """
        wanted = render.app_deployment(request, restricted=self._restricted, redis=self._redis)
        namespace, name = wanted["metadata"]["namespace"], wanted["metadata"]["name"]
        uid = request.worker["metadata"]["uid"]
        path = APP_DEPLOYMENTS.path(namespace, name)
        present = self._cache.app_deployments.get(namespace, name) or await self._get(path)
        if present is not None and not is_owned(present, uid):
            raise ForeignObject(
                f"an apps/v1 Deployment {namespace}/{name} is there that does not belong to TaskWorker "
                f"{request.worker['metadata']['name']!r}: delete or rename it"
            )
        if present is not None and _is_as_wanted(present, wanted) and self._applied.get(uid) == _generation(present):
            return
        if present is not None:  # so that an apply changes this one, and no namesake that took its place
            wanted["metadata"]["uid"] = present["metadata"]["uid"]
        made = await self._client.apply(path, wanted, field_manager=self._manager)
        self._applied[uid] = _generation(made)
        self._cache.app_deployments.put(made)

    async def remove_workers(self, worker: Key) -> None:
        """Nothing to do: the apps/v1 Deployment is the TaskWorker's and goes with it."""

    async def set_deletion_cost(self, worker: Key, member: str, cost: int) -> None:
        body = {"metadata": {"annotations": {observe.DELETION_COST: str(cost)}}}
        path = PODS.path(worker.namespace, member)
        try:
            self._cache.put_pod(await self._client.patch(path, body, field_manager=self._manager))
        except NotFound:
            return  # it went by itself

    async def observe_workers(self, worker: Key, uid: str) -> WorkerObservation:
        name = render.worker_deployment_name(worker.name)
        deployment = self._cache.app_deployments.get(worker.namespace, name)
        if deployment is not None and not is_owned(deployment, uid):
            deployment = None
        return WorkerObservation(
            wanted=int(within(deployment, "spec").get("replicas") or 0),
            members=tuple(
                observe.member(pod)
                for pod in self._cache.worker_pods.of(worker.namespace, worker.name)
                if is_for(pod, uid)
            ),
            selector=render.worker_selector(worker.name),
            template_hash=within(deployment, "metadata", "annotations").get(render.TEMPLATE_HASH, ""),
            problem=observe.replica_failure(deployment),
        )

    async def close(self) -> None:
        """Nothing is held here."""

    async def _get(self, path: str) -> Manifest | None:
        try:
            return await self._client.get(path)
        except NotFound:
            return None

    async def _delete(self, path: str, *, grace: float | None = None, uid: str = "") -> None:
        try:
            await self._client.delete(path, grace=grace, uid=uid)
        except (NotFound, ResourceConflict):
            return  # gone already, or another object has the name by now


def _generation(deployment: Manifest) -> int:
    return int(deployment["metadata"].get("generation") or 0)


def _is_as_wanted(present: Manifest, wanted: Manifest) -> bool:
    """Whether an apply would change nothing: the template by its digest, and the number of replicas."""
    return (
        within(present, "metadata", "annotations").get(render.TEMPLATE_HASH)
        == wanted["metadata"]["annotations"][render.TEMPLATE_HASH]
        and within(present, "spec").get("replicas") == wanted["spec"]["replicas"]
    )
