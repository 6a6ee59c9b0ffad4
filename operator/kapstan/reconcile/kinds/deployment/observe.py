"""Gathers what the Deployment reconciler is shown: from the cache and from the history, without a request."""

from __future__ import annotations

from datetime import datetime

from kapstan.ports import Key, Manifest
from kapstan.reconcile.kinds.deployment.history import History
from kapstan.reconcile.kinds.deployment.observed import DeploymentObserved
from kapstan.reconcile.world import World
from kapstan.resources import Deployment, WorkPool


async def observe(world: World, key: Key, manifest: Manifest, now: datetime) -> DeploymentObserved:
    """A Deployment, its pool and its runs."""
    found = Deployment.from_dict(manifest)
    pool = await world.read(Key("WorkPool", key.namespace, found.spec.work_pool_ref.name), WorkPool)
    ended = await world.memory(History).of(world, key, now.timestamp())
    return DeploymentObserved(found, pool, world.cache.runs(key), ended)
