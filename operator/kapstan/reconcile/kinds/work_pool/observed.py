"""What the WorkPool reconciler is shown: gathered by `observe`, made by hand in tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kapstan.ports import Key
from kapstan.reconcile.brief import RunBrief
from kapstan.reconcile.kinds.work_pool.places import Tokens
from kapstan.resources import Deployment, WorkPool


@dataclass(frozen=True, slots=True)
class PoolObserved:
    """A WorkPool and every FlowRun whose Deployment names it."""

    pool: WorkPool
    served: bool
    runs: tuple[RunBrief, ...] = ()
    deployments: Mapping[str, Deployment] = field(default_factory=dict[str, Deployment])
    waiting: frozenset[Key] = frozenset()
    """Runs that asked for a place."""
    granted: frozenset[Key] = frozenset()
    """Runs that were given a place and have not recorded their attempt yet."""
    tokens: Tokens | None = None
    """None: full."""
