"""What the Deployment reconciler is shown: gathered by `observe`, made by hand in tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kapstan.reconcile.brief import RunBrief
from kapstan.reconcile.kinds.deployment.history import Ended
from kapstan.resources import Deployment, WorkPool


@dataclass(frozen=True, slots=True)
class DeploymentObserved:
    """A Deployment and its runs."""

    deployment: Deployment
    pool: WorkPool | None
    unfinished: Sequence[RunBrief] = ()
    """By `RunBrief.order`."""
    ended: Ended = field(default_factory=Ended)
