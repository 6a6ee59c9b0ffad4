"""Runs the reconcilers: hears that something changed, looks, decides, acts.

`controllers` feeds it from kopf, `kapstan dev` and `kapstan worker` from the local store; it knows neither. Whatever
happens becomes `enqueue(key)`; all else follows from what is seen when the key's turn comes. One event loop; threads
only carry calls to the synchronous queue and records.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import cast

from kapstan.errors import ClusterRefused, ClusterUnavailable, InvalidResource, NotFound, ResourceConflict
from kapstan.ids import RunId
from kapstan.ports import Cluster, Key, Kind, Launcher, Manifest, Queue, RunRecords
from kapstan.reconcile import deployment, flow_run, task_worker, work_pool
from kapstan.reconcile.apply import Applier, LaunchDelayed, LaunchRefused, WorkersRefused
from kapstan.reconcile.cache import OURS, key_of_manifest
from kapstan.reconcile.observe import Observer
from kapstan.reconcile.observed import RunBrief, RunObserved
from kapstan.reconcile.plan import Plan
from kapstan.reconcile.work_queue import WorkQueue
from kapstan.reconcile.world import World

log = logging.getLogger("kapstan.reconcile")

WORKERS = 16
THREADS = 8
SPREAD = 0.5
"""Seconds that a Deployment waits after a change of one of its runs."""


class Loop:
    """The control plane of one process.

    Args:
        cluster: our resources.
        launchers: what starts attempts, by type of work pool; pools of other types are left alone.
        worker_launcher: what keeps the members of TaskWorkers; None leaves them alone.
        records: the records of a namespace's flow runs.
        queues: the queue of a namespace.
        pool: serve this WorkPool only (`kapstan worker start --pool`): its runs, and nothing else.
        clock: Unix seconds.
    """

    def __init__(
        self,
        cluster: Cluster,
        launchers: Mapping[str, Launcher],
        worker_launcher: Launcher | None,
        records: Callable[[str], RunRecords],
        queues: Callable[[str], Queue],
        *,
        pool: Key | None = None,
        clock: Callable[[], float] = time.time,
        workers: int = WORKERS,
    ) -> None:
        self.queue: WorkQueue[Key] = WorkQueue(clock)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="kapstan-reconcile")
        self._world = World(cluster, launchers, worker_launcher, records, queues, self._threads)
        self._observer = Observer(self._world, only=pool)
        self._applier = Applier(self._world, self.enqueue, self._wrote)
        self._clock = clock
        self._workers = workers
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._remains: dict[Key, list[str]] = {}

    # ------------------------------------------------------------------ what is heard

    def enqueue(self, key: Key) -> None:
        """Look at this resource; the one way in. To be called on the event loop's thread."""
        self.queue.add(key)

    def changed(self, manifest: Manifest) -> None:
        """A resource of ours was created or changed: whoever depends on it is looked at."""
        if self._world.cache.put(manifest):
            key = key_of_manifest(manifest)
            self.enqueue(key)
            self._wake_dependents(key, manifest)

    def _wrote(self, manifest: Manifest) -> None:
        """The answer to a write of our own: known at once, whatever the watch tells later."""
        if self._world.cache.put(manifest):
            self._wake_dependents(key_of_manifest(manifest), manifest)

    def deleted(self, manifest: Manifest) -> None:
        """A resource of ours was deleted, or a run has ended and left what is watched."""
        key = key_of_manifest(manifest)
        self._world.cache.drop(key)
        if key.kind == "FlowRun":
            self._remains[key] = [job for _, job in RunBrief.of(manifest).attempts]
        self.enqueue(key)
        self._wake_dependents(key, manifest)

    def known(self, kind: Kind, namespace: str | None = None) -> list[Manifest]:
        """What is believed to exist, finished runs left out; whoever lists anew finds out what has vanished."""
        return self._world.cache.of_kind(kind, namespace)

    def record_changed(self, run_id: RunId) -> None:
        """The record of a run was written. To be called from any thread."""
        if self._event_loop is not None:
            self._event_loop.call_soon_threadsafe(self._look_at_run, run_id)

    def _look_at_run(self, run_id: RunId) -> None:
        key = self._world.cache.run_of(run_id)
        if key is not None:
            self.enqueue(key)

    def _wake_dependents(self, key: Key, manifest: Manifest) -> None:
        match key.kind:
            case "FlowRun":
                spec = cast("Manifest", manifest.get("spec") or {})
                name = str(cast("Manifest", spec.get("deploymentRef") or {}).get("name") or "")
                parent = Key("Deployment", key.namespace, name)
                # It lists its finished runs: many that end together are one look.
                self.queue.add_at(parent, self._clock() + SPREAD)
                pool = self._observer.pool_key(parent)
                if pool is not None:
                    self.enqueue(pool)
            case "Deployment":
                pool = self._observer.pool_key(key)
                if pool is not None:
                    self.enqueue(pool)
                self._wake_runs(key)
            case "WorkPool":
                for parent in self._observer.deployments_of(key):
                    self.enqueue(parent)
                    self._wake_runs(parent)
            case "TaskWorker":
                pass

    def _wake_runs(self, parent: Key) -> None:
        for brief in self._world.cache.runs(parent.namespace, parent.name):
            if not brief.in_flight:
                self.enqueue(brief.key)

    # ------------------------------------------------------------------ at work

    async def sync(self) -> None:
        """List every kind once. Before `run`: no decision may be made on half of what there is.

        Raises:
            ClusterUnavailable: the API server does not answer.
        """
        for kind in OURS:
            for manifest in await self._world.cluster.list(kind):
                self.changed(manifest)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set; what is being worked on then is finished first."""
        self._event_loop = asyncio.get_running_loop()
        workers = [asyncio.create_task(self._work(), name=f"reconcile-{n}") for n in range(self._workers)]
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([stopping, *workers], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.queue.close()
            stopping.cancel()
            await asyncio.gather(*workers)
            self.close()

    def close(self) -> None:
        """Let the threads go; `run` does so at its end."""
        self._threads.shutdown(wait=False)

    async def _work(self) -> None:
        while (key := await self.queue.take()) is not None:
            await self.turn(key)

    async def turn(self, key: Key) -> None:
        """One key's turn, from look to action; a failure is logged and the key comes back later."""
        try:
            await self._reconcile(key)
        except NotFound:
            # Gone while it was looked at: the next look sees that.
            self._world.cache.drop(key)
            self.enqueue(key)
            self.queue.done(key)
        except ResourceConflict:
            await self._refresh(key)
            self.queue.failed(key)
        except (LaunchDelayed, WorkersRefused) as error:
            log.warning("%s: %s; again in %.1f s", key, error, self.queue.failed(key))
        except ClusterUnavailable as error:
            log.warning("%s: the cluster does not answer (%s); again in %.1f s", key, error, self.queue.failed(key))
        except ClusterRefused as error:
            log.error("%s: %s; again in %.1f s", key, error, self.queue.failed(key))
        except Exception:
            log.exception("%s could not be reconciled; again in %.1f s", key, self.queue.failed(key))
        else:
            self.queue.done(key)

    async def _refresh(self, key: Key) -> None:
        """The view was old: read the object anew, whatever the watch has told so far."""
        try:
            manifest = await self._world.cluster.get(key)
        except ClusterUnavailable:
            return
        if manifest is None:
            self._world.cache.drop(key)
        else:
            self._world.cache.put(manifest)

    async def _reconcile(self, key: Key) -> None:
        manifest = self._world.cache.get(key) or await self._world.cluster.get(key)
        remains = self._remains.pop(key, [])
        if manifest is None:
            await self._forget(key, remains)
            return
        if "deletionTimestamp" in manifest["metadata"]:
            return
        now = datetime.fromtimestamp(self._clock(), UTC)
        try:
            plan, version = await self._decide(key, manifest, now)
        except InvalidResource as error:
            # Stored before a rule was there, or past a server without it: nothing can be decided until it is corrected.
            log.warning("%s is left alone: %s", key, error)
            return
        try:
            await self._applier.apply(plan, version)
        except LaunchRefused as error:
            plan = await self._tell_of_launch(key, flow_run.launch_refused, str(error), now)
        except LaunchDelayed as error:
            tell = partial(flow_run.launch_delayed, category=error.category)
            await self._tell_of_launch(key, tell, str(error), now)
            raise
        except WorkersRefused as error:
            told = task_worker.refused(await self._observer.task_worker(manifest), str(error), now)
            await self._applier.apply(told, version)
            raise
        if plan.requeue_at is not None:
            self.queue.add_at(key, plan.requeue_at.timestamp())

    async def _tell_of_launch(
        self, key: Key, decide: Callable[[RunObserved, str, datetime], Plan], message: str, now: datetime
    ) -> Plan:
        """The attempt stands in the status by now: what becomes of its launch is decided on that."""
        manifest = self._world.cache.get(key) or await self._world.cluster.get(key)
        if manifest is None:
            return Plan()
        plan = decide(await self._observer.flow_run(manifest, journal=False), message, now)
        await self._applier.apply(plan, str(manifest["metadata"].get("resourceVersion") or ""))
        return plan

    async def _decide(self, key: Key, manifest: Manifest, now: datetime) -> tuple[Plan, str]:
        """The plan, and the version of the object that it was made on."""
        version = str(manifest["metadata"].get("resourceVersion") or "")
        if not self._observer.concerns(key, manifest):
            return Plan(), version
        match key.kind:
            case "FlowRun":
                observed = await self._observer.flow_run(manifest, journal=False)
                plan = flow_run.reconcile(observed, now)
                if plan.needs_journal:
                    observed = await self._observer.flow_run(manifest, journal=True)
                    plan = flow_run.reconcile(observed, now)
                self._settle_place(key, observed, plan)
                return plan, version
            case "WorkPool":
                return work_pool.reconcile(self._observer.work_pool(manifest), now), version
            case "Deployment":
                return deployment.reconcile(await self._observer.deployment(manifest), now), version
            case "TaskWorker":
                return task_worker.reconcile(await self._observer.task_worker(manifest), now), version

    def _settle_place(self, key: Key, observed: RunObserved, plan: Plan) -> None:
        """A run that neither asks for its place nor uses it gives it back."""
        if observed.place == "none" or plan.uses_place:
            return
        pool = self._world.memory.leave_line(key)
        if pool is not None:
            self.enqueue(pool)

    async def _forget(self, key: Key, jobs: list[str]) -> None:
        """The object is gone: nobody waits for it, and nothing of it may run on."""
        pool = self._world.memory.leave_line(key)
        if pool is not None:
            self.enqueue(pool)
        self._world.memory.forget(key)
        for launcher in self._world.launchers.values():
            for job in jobs:
                await launcher.remove(key, job)
        if key.kind == "TaskWorker" and self._world.worker_launcher is not None:
            await self._world.worker_launcher.remove_workers(key)
