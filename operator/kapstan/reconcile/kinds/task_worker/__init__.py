"""TaskWorker: as many members as are wanted, and those that go leave empty-handed."""

from __future__ import annotations

from datetime import datetime

from kapstan.ports import Key, Manifest
from kapstan.reconcile.kinds.task_worker.decision import reconcile, refused
from kapstan.reconcile.kinds.task_worker.drains import Drains
from kapstan.reconcile.kinds.task_worker.observe import observe
from kapstan.reconcile.plan import Acting, Plan, Refused
from kapstan.reconcile.reconciler import Reconciler, Right
from kapstan.reconcile.world import World
from kapstan.resources import GROUP
from kapstan.resources.labels import TASK_WORKER_LABEL


class TaskWorkerReconciler(Reconciler):
    kind = "TaskWorker"
    children = frozenset({"AppDeployment", "Pod"})
    child_label = TASK_WORKER_LABEL
    rights = (
        Right(GROUP, ("taskworkers/scale",), ("patch",), "autoscaling"),
        Right("apps", ("deployments",), ("create", "patch"), "the pods of TaskWorkers"),
        Right("", ("pods",), ("patch",), "deletion cost of workers"),
    )

    def concerns(self, world: World, key: Key, manifest: Manifest) -> bool:  # noqa: ARG002
        return world.worker_launcher is not None

    async def decide(self, world: World, key: Key, manifest: Manifest, now: datetime) -> Plan:  # noqa: ARG002
        return reconcile(await observe(world, manifest), now)

    async def refused(self, world: World, key: Key, error: Refused, now: datetime) -> Plan | None:
        manifest = world.cache.get(key) or await world.cluster.get(key)
        return None if manifest is None else refused(await observe(world, manifest), str(error), now)

    async def forget(self, acting: Acting, key: Key) -> None:
        acting.world.memory(Drains).forget(key)
        if acting.world.worker_launcher is not None:
            await acting.world.worker_launcher.remove_workers(key)
