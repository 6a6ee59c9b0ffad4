"""What FlowRuns that exist keep from retention: the journals of their runs, and the parameters that they name."""

from __future__ import annotations

import contextlib

from kapstan import ids
from kapstan.ids import RunId
from kapstan.ports import Cluster, Manifest
from kapstan.reconcile.kinds.flow_run.observed import run_id_of_run
from kapstan.reconcile.manifests import text, within
from kapstan.resources import FlowRun
from kapstan.runs.retention import Held


async def held(cluster: Cluster, namespace: str) -> Held:
    """Read page by page; two ids a FlowRun are remembered.

    Raises:
        ClusterUnavailable, ClusterRefused: nothing may be concluded.
        InvalidResource: a FlowRun of which not even the run can be told.
    """
    runs: set[RunId] = set()
    parameters: set[str] = set()
    async for manifest in cluster.each("FlowRun", namespace):
        runs.add(_run_id(manifest))
        if key := text(within(manifest, "spec", "parametersRef").get("key")):
            parameters.add(key)
    return Held(frozenset(runs), frozenset(parameters))


def _run_id(manifest: Manifest) -> RunId:
    if run_id := text(within(manifest, "status").get("runId")):
        with contextlib.suppress(ValueError):
            return ids.parse(run_id)
    return run_id_of_run(FlowRun.from_dict(manifest))
