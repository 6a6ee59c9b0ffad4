"""What FlowRuns that exist keep from retention: the journals of their runs, and the parameters that they name."""

from __future__ import annotations

from typing import cast

from kapstan import ids
from kapstan.ids import RunId
from kapstan.ports import Cluster, Manifest
from kapstan.reconcile.kinds.flow_run.observed import run_id_of_run
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
        reference = manifest["spec"].get("parametersRef")
        if reference:
            parameters.add(str(reference.get("key")))
    return Held(frozenset(runs), frozenset(parameters))


def _run_id(manifest: Manifest) -> RunId:
    run_id = cast("Manifest", manifest.get("status") or {}).get("runId")
    if run_id:
        try:
            return ids.parse(str(run_id))
        except ValueError:
            pass
    return run_id_of_run(FlowRun.from_dict(manifest))
