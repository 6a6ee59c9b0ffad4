"""Runs the reconcilers: hears that something changed, looks, decides, acts.

`controllers` feeds it from kopf, `kapstan dev` and `kapstan worker` from the local store; it knows neither. Whatever
happens becomes `enqueue(key)`; all else follows from what is seen when the key's turn comes. One event loop; threads
only carry calls to the synchronous queue and records.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from kapstan.errors import ClusterRefused, ClusterUnavailable, InvalidResource, NotFound, ResourceConflict
from kapstan.ids import RunId
from kapstan.ports import BackgroundRuns, Cluster, Key, Kind, Launcher, Manifest, Queue, RunRecords
from kapstan.reconcile.cache import key_of_manifest
from kapstan.reconcile.plan import Acting, EmitEvent, Plan, Refused
from kapstan.reconcile.reconciler import Reconciler, Wake
from kapstan.reconcile.table import TABLE
from kapstan.reconcile.work_queue import WorkQueue
from kapstan.reconcile.world import World

log = logging.getLogger("kapstan.reconcile")

WORKERS = 16
THREADS = 8


class Loop:
    """The control plane of one process.

    Args:
        cluster: our resources.
        launchers: what starts attempts, by type of work pool; pools of other types are left alone.
        worker_launcher: what keeps the members of TaskWorkers; None leaves them alone.
        records: the records of a namespace's flow runs.
        queues: the queue of a namespace.
        runs: the background runs of a namespace; None: nobody is told of those that are parked.
        pool: serve this WorkPool only (`kapstan worker start --pool`): its runs, and nothing else.
        clock: Unix seconds.
        table: the kinds that are reconciled.
    """

    def __init__(
        self,
        cluster: Cluster,
        launchers: Mapping[str, Launcher],
        worker_launcher: Launcher | None,
        records: Callable[[str], RunRecords],
        queues: Callable[[str], Queue],
        *,
        runs: Callable[[str], BackgroundRuns] | None = None,
        pool: Key | None = None,
        clock: Callable[[], float] = time.time,
        workers: int = WORKERS,
        table: Iterable[Reconciler] = TABLE,
    ) -> None:
        self.queue: WorkQueue[Key] = WorkQueue(clock)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="kapstan-reconcile")
        self._world = World(cluster, launchers, worker_launcher, records, queues, self._threads, pool, runs)
        self._reconcilers = {reconciler.kind: reconciler for reconciler in table}
        self._clock = clock
        self._workers = workers
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._at_work = False

    # ------------------------------------------------------------------ what is heard

    def enqueue(self, key: Key) -> None:
        """Look at this resource; the one way in. To be called on the event loop's thread.

        A loop that is not at work (the operator's standby) remembers nothing but its cache: `begin` looks at all of it.
        """
        if self._at_work:
            self.queue.add(key)

    def changed(self, manifest: Manifest) -> None:
        """A resource of ours was created or changed: it is looked at, and whoever depends on it."""
        if self._wrote(manifest):
            self.enqueue(key_of_manifest(manifest))

    def _wrote(self, manifest: Manifest) -> bool:
        """Take in the answer to a write of our own at once, before the watch brings it; whether it was news."""
        key = key_of_manifest(manifest)
        before = self._world.cache.get(key)
        if not self._world.cache.put(manifest):
            return False
        if self._at_work:
            self._wake(self._reconcilers[key.kind].noticed(self._world, key, before, manifest))
        return True

    def deleted(self, manifest: Manifest) -> None:
        """A resource of ours was deleted, or a run has ended and left what is watched."""
        key = key_of_manifest(manifest)
        self._wrote(manifest)  # its last state may be news, to those who depend on it
        self._world.cache.drop(key)
        self.enqueue(key)
        if self._at_work:
            self._wake(self._reconcilers[key.kind].noticed(self._world, key, manifest, None))

    def known(self, kind: Kind, namespace: str | None = None) -> list[Manifest]:
        """What the cache holds, without finished runs; a new list shows what has vanished since."""
        return self._world.cache.of_kind(kind, namespace)

    def record_changed(self, run_id: RunId) -> None:
        """The record of a run was written. To be called from any thread."""
        if self._event_loop is not None:
            self._event_loop.call_soon_threadsafe(self._look_at_runs, run_id)

    def _look_at_runs(self, run_id: RunId) -> None:
        for key in self._world.cache.runs_of(run_id):
            self.enqueue(key)

    def _wake(self, wakes: Iterable[Wake]) -> None:
        for wake in wakes:
            if wake.after:
                self.queue.add_at(wake.key, self._clock() + wake.after)
            else:
                self.enqueue(wake.key)

    # ------------------------------------------------------------------ at work

    def begin(self) -> None:
        """From now on decide: everything that is known is looked at, and whatever is heard. `run` does so."""
        if not self._at_work:
            self._at_work = True
            for key in self._world.cache.known():
                self.queue.add(key)

    async def sync(self) -> None:
        """List every kind once. Before `run`: no decision may be made on half of what there is.

        Raises:
            ClusterUnavailable: the API server does not answer.
        """
        self.begin()
        for kind in self._reconcilers:
            for manifest in await self._world.cluster.list(kind):
                self.changed(manifest)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set; what is being worked on then is finished first."""
        self._event_loop = asyncio.get_running_loop()
        self.begin()
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
            # Gone while it was looked at: the next look sees that, and so does whoever depends on it.
            known = self._world.cache.get(key)
            if known is not None:
                self.deleted(known)
            self.enqueue(key)
            self.queue.done(key)
        except ResourceConflict:
            await self._refresh(key)
            self.queue.failed(key)
        except ClusterUnavailable as error:
            log.warning("%s: the cluster does not answer (%s); again in %.1f s", key, error, self.queue.failed(key))
        except Refused as error:
            log.warning("%s: %s; again in %.1f s", key, error, self.queue.failed(key))
        except ClusterRefused as error:
            log.error("%s: %s; again in %.1f s", key, error, self.queue.failed(key))
        except Exception:
            log.exception("%s could not be reconciled; again in %.1f s", key, self.queue.failed(key))
        else:
            self.queue.done(key)

    async def _refresh(self, key: Key) -> None:
        """The view was old: read the object anew, whatever the watch has brought so far."""
        try:
            manifest = await self._world.cluster.get(key)
        except ClusterUnavailable:
            return
        if manifest is None:
            self._world.cache.drop(key)
        else:
            self._world.cache.put(manifest)

    async def _reconcile(self, key: Key) -> None:
        reconciler = self._reconcilers[key.kind]
        manifest = self._world.cache.get(key) or await self._world.cluster.get(key)
        if manifest is None:
            await reconciler.forget(self._acting(), key)
            return
        if not reconciler.concerns(self._world, key, manifest):
            return
        if "deletionTimestamp" in manifest["metadata"]:
            await reconciler.leaving(self._acting(), key, manifest)
            return
        now = datetime.fromtimestamp(self._clock(), UTC)
        try:
            plan = await reconciler.decide(self._world, key, manifest, now)
        except InvalidResource as error:
            # Stored before a rule was there, or past a server without it: nothing can be decided until it is corrected.
            log.warning("%s is left alone: %s", key, error)
            uid = str(manifest["metadata"].get("uid") or "")
            await EmitEvent(key, uid, "Warning", "InvalidSpec", str(error)).perform(self._acting(manifest))
            return
        try:
            await plan.perform(self._acting(manifest))
        except Refused as error:
            plan = await self._tell_refusal(key, error, now)
            if error.again:
                raise
        if plan.requeue_at is not None:
            self.queue.add_at(key, plan.requeue_at.timestamp())

    async def _tell_refusal(self, key: Key, error: Refused, now: datetime) -> Plan:
        """Say in the object's status what was refused; the plan that did so."""
        plan = await self._reconcilers[key.kind].refused(self._world, key, error, now)
        if plan is None:
            return Plan()
        await plan.perform(self._acting(self._world.cache.get(key) or await self._world.cluster.get(key)))
        return plan

    def _acting(self, manifest: Manifest | None = None) -> Acting:
        """``manifest``: the object that the plan was made on."""
        version = "" if manifest is None else str(manifest["metadata"].get("resourceVersion") or "")
        return Acting(self._world, self.enqueue, self._wrote, version)
