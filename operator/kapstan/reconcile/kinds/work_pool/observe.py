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
    granted = places.granted(key)
    return PoolObserved(
        pool=pool,
        served=pool.spec.type in world.launchers,
        deployments=deployments,
        in_flight={
            name: world.cache.in_flight(Key("Deployment", key.namespace, name)) + granted.get(name, 0)
            for name in deployments
        },
        waiting=places.waiting(key),
        queued=places.queued(key),
        tokens=places.tokens.get(key),
    )
