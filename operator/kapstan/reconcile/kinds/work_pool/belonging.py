"""Who belongs to which pool: a Deployment names its WorkPool, a FlowRun its Deployment.

Used by the kinds that depend on a pool.
"""

from __future__ import annotations

from kapstan.ports import Key, Manifest
from kapstan.reconcile.cache import Cache
from kapstan.reconcile.manifests import objects, text, within
from kapstan.reconcile.world import World

NEEDS_WORKER = "NeedsProcessWorker"
"""Condition of a pool of type process: False while a worker serves it."""


def needs_worker(pool: str) -> str:
    """What to do about a pool of type process that nobody serves."""
    return (
        f"WorkPool {pool!r} is of type process: run `kapstan worker start --pool {pool}` where its flows are to execute"
    )


def pool_named_by(deployment: Key, manifest: Manifest) -> Key:
    """The WorkPool of a Deployment's manifest."""
    return Key("WorkPool", deployment.namespace, text(within(manifest, "spec", "workPoolRef").get("name")))


def pool_of(cache: Cache, deployment: Key) -> Key | None:
    """The WorkPool that a Deployment names, if the Deployment is known."""
    manifest = cache.get(deployment)
    return None if manifest is None else pool_named_by(deployment, manifest)


def deployment_of(run: Key, manifest: Manifest) -> Key:
    """The Deployment of a FlowRun's manifest."""
    return Key("Deployment", run.namespace, text(within(manifest, "spec", "deploymentRef").get("name")))


def deployments_of(cache: Cache, pool: Key) -> list[Key]:
    """The Deployments that name this pool."""
    return [
        Key("Deployment", pool.namespace, str(manifest["metadata"]["name"]))
        for manifest in cache.of_kind("Deployment", pool.namespace)
        if text(within(manifest, "spec", "workPoolRef").get("name")) == pool.name
    ]


def waiting_runs(cache: Cache, deployment: Key) -> list[Key]:
    """Unfinished runs of a Deployment that have no attempt in flight."""
    return [run.key for run in cache.runs(deployment) if not run.in_flight]


def served_elsewhere(world: World, pool: Key) -> bool:
    """Whether a worker in another process starts this pool's runs."""
    manifest = world.cache.get(pool)
    if manifest is None or (text(within(manifest, "spec").get("type")) or "kubernetes") in world.launchers:
        return False
    return is_served(manifest)


def is_served(pool: Manifest) -> bool:
    """Whether a worker has written that it serves this pool of type process."""
    conditions = objects(within(pool, "status").get("conditions"))
    return any(c.get("type") == NEEDS_WORKER and c.get("status") == "False" for c in conditions)
