"""Gathers what the WorkPool reconciler is shown."""

from __future__ import annotations

import contextlib

from kapstan.errors import InvalidResource
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
    deployments: dict[str, Deployment] = {}
    for parent in deployments_of(world.cache, key):
        stored = world.cache.get(parent)
        with contextlib.suppress(InvalidResource):  # its own runs wait until it is corrected, and nobody else's
            if stored is not None:
                deployments[parent.name] = Deployment.from_dict(stored)
    granted = places.granted(key)
    in_flight = {name: world.cache.in_flight(Key("Deployment", key.namespace, name)) for name in deployments}
    return PoolObserved(
        pool=pool,
        served=pool.spec.type in world.launchers,
        deployments=deployments,
        in_flight={name: len(runs) + granted.get(name, 0) for name, runs in in_flight.items()},
        moved=_moved(places, key, {run for runs in in_flight.values() for run in runs}) if places.moved else 0,
        waiting=places.waiting(key),
        queued=places.queued(key),
        tokens=places.tokens.get(key),
    )


def _moved(places: Places, pool: Key, runs: set[Key]) -> int:
    """``runs``: in flight, of the Deployments that name the pool."""
    here = sum(holds == pool and run not in runs for run, holds in places.moved.items())
    return here - sum(places.moved.get(run, pool) != pool for run in runs)
