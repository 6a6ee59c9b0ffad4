"""Gathers what a reconciler is shown: from the cache, from the launchers, from the queue and from the runs' records.

Called by the loop, once per turn. It reads and never writes.
"""

from __future__ import annotations

from typing import TypeVar, cast

from kapstan.errors import BackendError, QueueUnavailable
from kapstan.ids import RunId
from kapstan.ports import (
    AttemptObservation,
    Depth,
    Key,
    Manifest,
    SessionInfo,
    WorkerObservation,
)
from kapstan.reconcile.observed import (
    DeploymentObserved,
    PoolObserved,
    Record,
    RunBrief,
    RunObserved,
    WorkersObserved,
    run_id_of_run,
)
from kapstan.reconcile.work_pool import NEEDS_WORKER
from kapstan.reconcile.world import World
from kapstan.resources import Deployment, FlowRun, TaskWorker, WorkPool
from kapstan.states import TERMINAL_PHASES

T = TypeVar("T")


class Observer:
    """Looks at things for one loop."""

    def __init__(self, world: World, *, only: Key | None) -> None:
        self._world = world
        self._only = only

    # ------------------------------------------------------------------ who belongs to whom

    def pool_key(self, deployment: Key) -> Key | None:
        """The WorkPool that a Deployment names, if the Deployment is known."""
        manifest = self._world.cache.get(deployment)
        if manifest is None:
            return None
        return Key("WorkPool", deployment.namespace, str(manifest["spec"]["workPoolRef"]["name"]))

    def deployments_of(self, pool: Key) -> list[Key]:
        return [
            Key("Deployment", pool.namespace, str(manifest["metadata"]["name"]))
            for manifest in self._world.cache.of_kind("Deployment", pool.namespace)
            if manifest["spec"]["workPoolRef"]["name"] == pool.name
        ]

    def concerns(self, key: Key, manifest: Manifest) -> bool:
        """Whether this loop decides about the resource, or another process does."""
        if key.kind == "TaskWorker":
            return self._world.worker_launcher is not None
        pool = key if key.kind == "WorkPool" else self._pool_of(key, manifest)
        if self._only is not None:
            return pool == self._only
        return key.kind != "FlowRun" or pool is None or not self._served_elsewhere(pool)

    def _pool_of(self, key: Key, manifest: Manifest) -> Key | None:
        if key.kind == "Deployment":
            return Key("WorkPool", key.namespace, str(manifest["spec"]["workPoolRef"]["name"]))
        return self.pool_key(Key("Deployment", key.namespace, str(manifest["spec"]["deploymentRef"]["name"])))

    def _served_elsewhere(self, pool: Key) -> bool:
        manifest = self._world.cache.get(pool)
        if manifest is None or manifest["spec"].get("type", "kubernetes") in self._world.launchers:
            return False
        conditions = cast("list[Manifest]", manifest.get("status", {}).get("conditions") or [])
        return any(c["type"] == NEEDS_WORKER and c["status"] == "False" for c in conditions)

    # ------------------------------------------------------------------ one look per kind

    async def flow_run(self, manifest: Manifest, *, journal: bool) -> RunObserved:
        """A FlowRun; with ``journal`` its whole record is read from the store."""
        run = FlowRun.from_dict(manifest)
        key = Key("FlowRun", run.metadata.namespace, run.metadata.name)
        deployment = await self._read(Key("Deployment", key.namespace, run.spec.deployment_ref.name), Deployment)
        pool_name = deployment.spec.work_pool_ref.name if deployment else ""
        pool = await self._read(Key("WorkPool", key.namespace, pool_name), WorkPool) if pool_name else None
        launcher = self._world.launchers.get(pool.spec.type) if pool else None
        watcher = launcher or next(iter(self._world.launchers.values()), None)
        attempts: list[AttemptObservation] = []
        if run.status.attempts and watcher is not None:
            jobs = [(attempt.number, attempt.job) for attempt in run.status.attempts]
            attempts = await watcher.observe_attempts(key, run.metadata.uid or "", jobs)
        return RunObserved(
            run=run,
            deployment=deployment,
            pool=pool,
            launcher=launcher.flavour if launcher else None,
            place=self._world.memory.place(key),
            attempts=tuple(attempts),
            record=await self._record(run, journal=journal),
        )

    def work_pool(self, manifest: Manifest) -> PoolObserved:
        pool = WorkPool.from_dict(manifest)
        key = Key("WorkPool", pool.metadata.namespace, pool.metadata.name)
        deployments = {
            parent.name: Deployment.from_dict(stored)
            for parent in self.deployments_of(key)
            if (stored := self._world.cache.get(parent)) is not None
        }
        return PoolObserved(
            pool=pool,
            served=pool.spec.type in self._world.launchers,
            runs=tuple(run for name in deployments for run in self._world.cache.runs(key.namespace, name)),
            deployments=deployments,
            waiting=frozenset(run for run, asked in self._world.memory.waiting.items() if asked == key),
            granted=frozenset(run for run, giver in self._world.memory.granted.items() if giver == key),
            tokens=self._world.memory.tokens.get(key),
        )

    async def deployment(self, manifest: Manifest) -> DeploymentObserved:
        found = Deployment.from_dict(manifest)
        name, namespace = found.metadata.name, found.metadata.namespace
        # Finished runs are in nobody's cache; the ones that are not finished may be newer there.
        stored = [
            RunBrief.of(run)
            for run in await self._world.cluster.list("FlowRun", namespace)
            if run["spec"]["deploymentRef"]["name"] == name
        ]
        runs = {run.key: run for run in stored} | {run.key: run for run in self._world.cache.runs(namespace, name)}
        pool = await self._read(Key("WorkPool", namespace, found.spec.work_pool_ref.name), WorkPool)
        return DeploymentObserved(found, pool, tuple(sorted(runs.values(), key=lambda run: (run.created, run.key))))

    async def task_worker(self, manifest: Manifest) -> WorkersObserved:
        worker = TaskWorker.from_dict(manifest)
        key = Key("TaskWorker", worker.metadata.namespace, worker.metadata.name)
        assert self._world.worker_launcher is not None
        members = await self._world.worker_launcher.observe_workers(key, worker.metadata.uid or "")
        sessions, depth, unreachable = await self._world.call(self._look_at_queue, key.namespace, members)
        draining = self._world.memory.draining.get(key, {})
        present = {member.name for member in members.members}
        self._world.memory.draining[key] = {name: since for name, since in draining.items() if name in present}
        return WorkersObserved(
            worker=worker,
            members=members,
            sessions=sessions,
            depth=depth,
            unreachable=unreachable,
            draining_since=dict(self._world.memory.draining[key]),
            gone=self._world.memory.gone_members(key, members),
        )

    # ------------------------------------------------------------------ records and queue, on threads

    async def _record(self, run: FlowRun, *, journal: bool) -> Record:
        attempts = run.status.attempts
        if not journal and (not attempts or run.status.phase in TERMINAL_PHASES):
            return Record()
        run_id = run_id_of_run(run)
        return await self._world.call(
            self._read_record, run.metadata.namespace, run_id, "journal" if journal else "index"
        )

    def _read_record(self, namespace: str, run_id: RunId, source: str) -> Record:
        if source == "journal":
            try:
                return Record(tuple(self._world.records(namespace).attempts(run_id)), journal=True)
            except BackendError as error:
                return Record(unreachable=str(error))
        try:
            ended = self._world.records(namespace).ended(run_id)
        except BackendError:
            return Record()  # A shortcut that is closed: infrastructure or the journal will tell.
        return Record((ended,) if ended is not None else ())

    def _look_at_queue(
        self, namespace: str, members: WorkerObservation
    ) -> tuple[tuple[SessionInfo, ...] | None, Depth | None, str]:
        try:
            queue = self._world.queues(namespace)
            sessions = tuple(queue.sessions())
            prefixes = tuple(member.session_prefix for member in members.members)
            served = {task for told in sessions if told.session.startswith(prefixes) for task in told.tasks}
            return sessions, queue.depth(sorted(served)) if served else None, ""
        except QueueUnavailable as error:
            return None, None, str(error)

    async def _read(self, key: Key, model: type[T]) -> T | None:
        manifest = self._world.cache.get(key) or await self._world.cluster.get(key)
        return cast("T", model.from_dict(manifest)) if manifest is not None else None  # pyright: ignore
