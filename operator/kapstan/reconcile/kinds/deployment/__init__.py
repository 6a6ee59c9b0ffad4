"""Deployment: makes FlowRuns at the moments of its schedules, forgets old ones."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from kapstan.ports import Key, Manifest
from kapstan.reconcile.kinds.deployment.decision import reconcile, refused
from kapstan.reconcile.kinds.deployment.observe import observe
from kapstan.reconcile.kinds.work_pool.belonging import pool_named_by, waiting_runs
from kapstan.reconcile.kinds.work_pool.places import Places
from kapstan.reconcile.plan import Plan, Refused
from kapstan.reconcile.reconciler import Reconciler, Right, Wake
from kapstan.reconcile.world import World
from kapstan.resources import GROUP


class DeploymentReconciler(Reconciler):
    kind = "Deployment"
    rights = (Right(GROUP, ("flowruns",), ("create", "delete", "patch"), "schedules, history limits, replaced runs"),)

    def concerns(self, world: World, key: Key, manifest: Manifest) -> bool:
        return world.only in (None, pool_named_by(key, manifest))

    async def decide(self, world: World, key: Key, manifest: Manifest, now: datetime) -> Plan:
        return reconcile(await observe(world, key, manifest, now), now)

    async def refused(self, world: World, key: Key, error: Refused, now: datetime) -> Plan | None:
        manifest = world.cache.get(key) or await world.cluster.get(key)
        return None if manifest is None else refused(await observe(world, key, manifest, now), str(error), now)

    def noticed(self, world: World, key: Key, before: Manifest | None, after: Manifest | None) -> Iterable[Wake]:
        if before is not None and after is not None and before.get("spec") == after.get("spec"):
            return  # its counts and next moments concern nobody
        pools = [pool_named_by(key, seen) for seen in (before, after) if seen is not None]
        if before is not None and pools[1:] != pools[:1]:
            # What runs keeps its place in the pool that gave it.
            world.memory(Places).move(world.cache.in_flight(key), pools[0])
        yield from map(Wake, pools)
        yield from map(Wake, waiting_runs(world.cache, key))
