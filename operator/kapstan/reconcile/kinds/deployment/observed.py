"""What the Deployment reconciler is shown: gathered by `observe`, made by hand in tests."""

from __future__ import annotations

from dataclasses import dataclass

from kapstan.reconcile.brief import RunBrief
from kapstan.resources import Deployment, WorkPool


@dataclass(frozen=True, slots=True)
class DeploymentObserved:
    """A Deployment and its FlowRuns, finished ones included."""

    deployment: Deployment
    pool: WorkPool | None
    runs: tuple[RunBrief, ...] = ()
