"""What is remembered of the places in pools, and may be lost: who asked, who was given one, launches left.

A restart begins with an empty one: whoever waits asks again, and whoever was granted a place and did not record an
attempt has not started. Kept in lines, so that a look at a pool costs the same however many wait.
"""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from kapstan.ports import Key
from kapstan.reconcile.brief import RunBrief


@dataclass(frozen=True, slots=True)
class Tokens:
    """A pool's bucket of launches: ``left`` at the moment ``at``."""

    left: float
    at: datetime


@dataclass(slots=True)
class Line:
    """Who wants places in one pool, by Deployment."""

    waiting: dict[str, list[RunBrief]] = field(default_factory=lambda: defaultdict[str, list[RunBrief]](list))
    """Runs that asked for a place, in the order in which they are due."""
    granted: Counter[str] = field(default_factory=Counter[str])
    """How many runs were given one and have not recorded their attempt."""
    queued: int = 0


@dataclass(slots=True)
class Places:
    """Of one process; used by the event loop's thread only."""

    tokens: dict[Key, Tokens] = field(default_factory=dict[Key, Tokens])
    moved: dict[Key, Key] = field(default_factory=dict[Key, Key])
    """Runs in flight whose Deployment was deleted or names another pool since: the pool whose place each holds."""
    _lines: dict[Key, Line] = field(default_factory=lambda: defaultdict[Key, Line](Line))
    _waiting: dict[Key, tuple[Key, RunBrief]] = field(default_factory=dict[Key, tuple[Key, RunBrief]])
    _granted: dict[Key, tuple[Key, str]] = field(default_factory=dict[Key, tuple[Key, str]])

    def place(self, run: Key) -> Literal["none", "asked", "granted"]:
        return "granted" if run in self._granted else "asked" if run in self._waiting else "none"

    def ask(self, run: RunBrief, pool: Key) -> bool:
        """The run lines up in the pool; False if it stands there already."""
        asked = self._waiting.get(run.key)
        if asked is not None and asked[0] == pool:
            return False
        self.leave(run.key)
        self._waiting[run.key] = (pool, run)
        line = self._lines[pool]
        bisect.insort(line.waiting[run.deployment], run, key=RunBrief.order)
        line.queued += 1
        return True

    def grant(self, run: Key) -> bool:
        """The run is given the place that it asked for; False if it does not wait any more."""
        asked = self._waiting.get(run)
        if asked is None:
            return False
        pool, brief = asked
        self._step_out(run)
        self._granted[run] = (pool, brief.deployment)
        self._lines[pool].granted[brief.deployment] += 1
        return True

    def leave(self, run: Key) -> Key | None:
        """The run wants no place any more; the pool that may give it to another."""
        pool = self._step_out(run)
        granted = self._granted.pop(run, None)
        if granted is not None:
            pool, deployment = granted
            counts = self._lines[pool].granted
            counts[deployment] -= 1
            if counts[deployment] <= 0:
                del counts[deployment]
        return pool

    def move(self, runs: Iterable[Key], pool: Key) -> None:
        """The Deployment of these runs, which are in flight, names this pool no more."""
        for run in runs:
            self.moved.setdefault(run, pool)

    def waiting(self, pool: Key) -> Mapping[str, Sequence[RunBrief]]:
        """By Deployment: who waits, in order."""
        return self._lines[pool].waiting if pool in self._lines else {}

    def granted(self, pool: Key) -> Mapping[str, int]:
        """By Deployment: how many were given a place and have not recorded their attempt."""
        return self._lines[pool].granted if pool in self._lines else {}

    def queued(self, pool: Key) -> int:
        return self._lines[pool].queued if pool in self._lines else 0

    def _step_out(self, run: Key) -> Key | None:
        asked = self._waiting.pop(run, None)
        if asked is None:
            return None
        pool, brief = asked
        line = self._lines[pool]
        row = line.waiting[brief.deployment]
        del row[bisect.bisect_left(row, brief.order(), key=RunBrief.order)]
        if not row:
            del line.waiting[brief.deployment]
        line.queued -= 1
        return pool
