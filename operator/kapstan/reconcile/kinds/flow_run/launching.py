"""What a launch needs: what is missing for it, each with field and fix, and the request to the launcher.

Called by the FlowRun reconciler.
"""

from __future__ import annotations

from kapstan.ports import JobRequest
from kapstan.reconcile.kinds.flow_run.observed import RunObserved
from kapstan.reconcile.kinds.work_pool.belonging import needs_worker
from kapstan.reconcile.status import key_of
from kapstan.resources import Resource, violations
from kapstan.resources.flowrun import Attempt

BLOCKERS = frozenset({"DeploymentNotFound", "WorkPoolNotFound", "NeedsProcessWorker", "NoImage", "InvalidSpec"})
"""Reasons that `missing` gives."""


def missing(observed: RunObserved) -> tuple[str, str] | None:
    """(reason, message) of what keeps this run from being launched, None if nothing does."""
    run, deployment, pool = observed.run, observed.deployment, observed.pool
    namespace = run.metadata.namespace
    broken = _broken(run)
    if broken is not None:
        return "InvalidSpec", broken
    if deployment is None:
        return "DeploymentNotFound", (
            f"spec.deploymentRef.name: no Deployment of kapstan.dev named {run.spec.deployment_ref.name!r} in "
            f"namespace {namespace!r}: create it, or create another FlowRun with the right name"
        )
    if pool is None:
        return "WorkPoolNotFound", (
            f"spec.workPoolRef.name of Deployment {deployment.metadata.name!r}: no WorkPool named "
            f"{deployment.spec.work_pool_ref.name!r} in namespace {namespace!r}: create it or correct the name"
        )
    broken = _broken(deployment) or _broken(pool)
    if broken is not None:
        return "InvalidSpec", broken
    if observed.launcher is None:
        return "NeedsProcessWorker", needs_worker(pool.metadata.name)
    if observed.launcher == "job" and deployment.spec.flow.image is None:
        return "NoImage", (
            f"spec.flow.image of Deployment {deployment.metadata.name!r} is missing: a pool of type kubernetes needs "
            "the image that holds the flow's code"
        )
    return None


def _broken(resource: Resource) -> str | None:
    """A rule that the API server cannot check, if this breaks one."""
    problem = next(violations(resource, beyond_cel=True), None)
    if problem is None:
        return None
    where = "" if resource.kind == "FlowRun" else f" of {resource.kind} {resource.metadata.name!r}"
    return f"{problem[0]}{where}: {problem[1]}"


def request_of(observed: RunObserved, attempt: Attempt) -> JobRequest:
    """What the launcher is asked; nothing must be missing."""
    run, deployment, pool = observed.run, observed.deployment, observed.pool
    assert deployment is not None
    assert pool is not None
    return JobRequest(
        run=key_of(run),
        uid=run.metadata.uid or "",
        run_id=observed.run_id,
        attempt=attempt.number,
        job=attempt.job,
        deployment=deployment.to_dict(),
        pool=pool.to_dict(),
        parameters={**deployment.spec.parameters, **(run.spec.parameters or {})},
        again=attempt.number > run.status.resumed_after and run.status.resumed > 0,
        parameters_ref=run.spec.parameters_ref.key if run.spec.parameters_ref else None,
    )
