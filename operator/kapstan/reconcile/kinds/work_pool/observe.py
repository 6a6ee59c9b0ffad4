"""Gathers what the WorkPool reconciler is shown."""

from __future__ import annotations

from kapstan.ports import Key, Manifest
from kapstan.reconcile.kinds.work_pool.belonging import deployments_of
from kapstan.reconcile.kinds.work_pool.observed import PoolObserved
from kapstan.reconcile.kinds.work_pool.places import Places
from kapstan.reconcile.world import World
from kapstan.resources import Deployment, WorkPool


def observe(world: World, manifest: Manifest) -> PoolObserved:
    """A WorkPool, from the cache and from what is remembered of its places."""
    pool = WorkPool.from_dict(manifest)
    key = Key("WorkPool", pool.metadata.namespace, pool.metadata.name)
    places = world.memory(Places)
    deployments = {
        parent.name: Deployment.from_dict(stored)
        for parent in deployments_of(world.cache, key)
        if (stored := world.cache.get(parent)) is not None
    }
    return PoolObserved(
        pool=pool,
        served=pool.spec.type in world.launchers,
        runs=tuple(run for name in deployments for run in world.cache.runs(key.namespace, name)),
        deployments=deployments,
        waiting=frozenset(run for run, asked in places.waiting.items() if asked == key),
        granted=frozenset(run for run, giver in places.granted.items() if giver == key),
        tokens=places.tokens.get(key),
    )
