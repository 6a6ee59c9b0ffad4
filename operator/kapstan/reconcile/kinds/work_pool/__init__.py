"""WorkPool: who of those that wait may start."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from kapstan.ports import Key, Manifest
from kapstan.reconcile.kinds.work_pool.belonging import deployments_of, is_served, waiting_runs
from kapstan.reconcile.kinds.work_pool.decision import reconcile
from kapstan.reconcile.kinds.work_pool.observe import observe
from kapstan.reconcile.kinds.work_pool.places import Places
from kapstan.reconcile.plan import Acting, Plan
from kapstan.reconcile.reconciler import Reconciler, Wake
from kapstan.reconcile.world import World


class WorkPoolReconciler(Reconciler):
    kind = "WorkPool"

    def concerns(self, world: World, key: Key, manifest: Manifest) -> bool:  # noqa: ARG002
        return world.only in (None, key)

    async def decide(self, world: World, key: Key, manifest: Manifest, now: datetime) -> Plan:  # noqa: ARG002
        return reconcile(observe(world, manifest), now)

    def noticed(self, world: World, key: Key, before: Manifest | None, after: Manifest | None) -> Iterable[Wake]:
        """Its counts are of no concern to anybody: only what is wanted of it is, and whether it is served."""
        if _concerns_others(before) == _concerns_others(after):
            return
        for deployment in deployments_of(world.cache, key):
            yield Wake(deployment)
            yield from map(Wake, waiting_runs(world.cache, deployment))

    async def forget(self, acting: Acting, key: Key) -> None:
        acting.world.memory(Places).tokens.pop(key, None)


def _concerns_others(manifest: Manifest | None) -> object:
    """What Deployments and runs look at."""
    return None if manifest is None else (manifest["metadata"].get("uid"), manifest["spec"], is_served(manifest))
