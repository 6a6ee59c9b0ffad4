"""What the WorkPool reconciler is shown: gathered by `observe`, made by hand in tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kapstan.reconcile.brief import RunBrief
from kapstan.reconcile.kinds.work_pool.places import Tokens
from kapstan.resources import Deployment, WorkPool


@dataclass(frozen=True, slots=True)
class PoolObserved:
    """A WorkPool, and who holds or wants its places."""

    pool: WorkPool
    served: bool
    deployments: Mapping[str, Deployment] = field(default_factory=dict[str, Deployment])
    """By name: those that name this pool."""
    in_flight: Mapping[str, int] = field(default_factory=dict[str, int])
    """By Deployment: runs that hold a place, those included that were given one and have not recorded their attempt."""
    moved: int = 0
    """Runs that hold a place here though their Deployment was deleted or names another pool by now, less those of the
    Deployments above that hold one in another pool."""
    waiting: Mapping[str, Sequence[RunBrief]] = field(default_factory=dict[str, "Sequence[RunBrief]"])
    """By Deployment: runs that asked for a place, in the order in which they are due."""
    queued: int = 0
    """How many these are together."""
    tokens: Tokens | None = None
    """None: full."""
