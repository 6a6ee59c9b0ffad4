"""Finished runs, by Deployment: counted and sorted as they end, so that a look at a Deployment lists nothing.

A namespace is listed once, when the first of its Deployments is looked at, and then again every ten minutes, because
finished runs are not watched and somebody else may delete them. Remembered by the loop; may be lost.
"""

from __future__ import annotations

import asyncio
import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kapstan.ports import Key
from kapstan.reconcile.brief import RunBrief
from kapstan.reconcile.world import World

LISTED_AGAIN = 600.0
"""Seconds after which a namespace's finished runs are listed anew."""


def _ended_at(run: RunBrief) -> tuple[datetime, str]:
    return run.ended_at or datetime.fromtimestamp(0, UTC), run.key.name


@dataclass(slots=True)
class Ended:
    """The finished runs of one Deployment."""

    by_key: dict[Key, RunBrief] = field(default_factory=dict[Key, RunBrief])
    phases: Counter[str] = field(default_factory=Counter[str])
    in_order: list[RunBrief] = field(default_factory=list[RunBrief])
    """By `RunBrief.order`."""
    made_good: list[RunBrief] = field(default_factory=list[RunBrief])
    """What schedules made and what completed, in that order."""
    made_bad: list[RunBrief] = field(default_factory=list[RunBrief])
    """What schedules made and what did not complete, in that order."""
    asked_for: list[RunBrief] = field(default_factory=list[RunBrief])
    """What a person or a program asked for, by the moment at which it ended."""

    @classmethod
    def of(cls, runs: Iterable[RunBrief]) -> Ended:
        ended = cls()
        for run in runs:
            ended.put(run)
        return ended

    def put(self, run: RunBrief) -> None:
        self.drop(run.key)
        self.by_key[run.key] = run
        self.phases[run.phase] += 1
        for row, order in self._rows(run):
            bisect.insort(row, run, key=order)

    def drop(self, key: Key) -> None:
        run = self.by_key.pop(key, None)
        if run is None:
            return
        self.phases[run.phase] -= 1
        for row, order in self._rows(run):
            del row[bisect.bisect_left(row, order(run), key=order)]

    def _rows(self, run: RunBrief) -> list[tuple[list[RunBrief], Callable[[RunBrief], tuple[datetime | str, ...]]]]:
        if not run.schedule:
            kept = (self.asked_for, _ended_at)
        else:
            kept = (self.made_good if run.phase == "Completed" else self.made_bad, RunBrief.order)
        return [(self.in_order, RunBrief.order), kept]


@dataclass(slots=True)
class _Namespace:
    ended: dict[Key, Ended] = field(default_factory=lambda: defaultdict[Key, Ended](Ended))
    parents: dict[Key, Key] = field(default_factory=dict[Key, Key])
    listed_at: float | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    meanwhile: list[tuple[Key, RunBrief | None]] | None = None
    """What was heard while the namespace was being listed."""

    def note(self, key: Key, run: RunBrief | None) -> None:
        if self.meanwhile is not None:
            self.meanwhile.append((key, run))
        parent = self.parents.pop(key, None)
        if parent is not None:
            self.ended[parent].drop(key)
        if run is not None:
            self.parents[key] = run.parent
            self.ended[run.parent].put(run)


class History:
    """Of one process; used by the event loop's thread only."""

    def __init__(self) -> None:
        self._namespaces: dict[str, _Namespace] = defaultdict(_Namespace)

    def put(self, run: RunBrief) -> None:
        """The run has ended."""
        self._namespaces[run.key.namespace].note(run.key, run)

    def drop(self, key: Key) -> None:
        """The object is gone, or another run has its name."""
        self._namespaces[key.namespace].note(key, None)

    async def of(self, world: World, deployment: Key, now: float) -> Ended:
        """The finished runs of a Deployment; not to be kept, they change with what is heard.

        Args:
            now: Unix seconds.

        Raises:
            ClusterUnavailable: they had to be listed and could not be.
        """
        kept = self._namespaces[deployment.namespace]
        async with kept.lock:
            if kept.listed_at is None or now - kept.listed_at >= LISTED_AGAIN:
                await self._list(world, deployment.namespace, kept)
                kept.listed_at = now
        return kept.ended[deployment]

    @staticmethod
    async def _list(world: World, namespace: str, kept: _Namespace) -> None:
        kept.meanwhile = []
        try:
            found = [RunBrief.of(manifest) async for manifest in world.cluster.each("FlowRun", namespace)]
            meanwhile = kept.meanwhile
        finally:
            kept.meanwhile = None
        kept.ended.clear()
        kept.parents.clear()
        for run in found:
            if run.ended:
                kept.note(run.key, run)
        for key, run in meanwhile:
            kept.note(key, run)
