"""Gathers what the Deployment reconciler is shown."""

from __future__ import annotations

from kapstan.ports import Key, Manifest
from kapstan.reconcile.brief import RunBrief
from kapstan.reconcile.kinds.deployment.observed import DeploymentObserved
from kapstan.reconcile.world import World
from kapstan.resources import Deployment, WorkPool


async def observe(world: World, manifest: Manifest) -> DeploymentObserved:
    """A Deployment, its pool and its runs."""
    found = Deployment.from_dict(manifest)
    name, namespace = found.metadata.name, found.metadata.namespace
    # Finished runs are in nobody's cache; the ones that are not finished may be newer there.
    stored = [
        RunBrief.of(run)
        for run in await world.cluster.list("FlowRun", namespace)
        if run["spec"]["deploymentRef"]["name"] == name
    ]
    runs = {run.key: run for run in stored} | {run.key: run for run in world.cache.runs(namespace, name)}
    pool = await world.read(Key("WorkPool", namespace, found.spec.work_pool_ref.name), WorkPool)
    return DeploymentObserved(found, pool, tuple(sorted(runs.values(), key=lambda run: (run.created, run.key))))
