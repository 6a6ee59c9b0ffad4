"""Holds with a ``hold_timeout`` whose holder never gives them back: what is kept of them is removed some time later."""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping
from typing import NamedTuple

from kapstan.ports import Wait

_LATER = 60.0  # seconds; so long a holder that comes late is told that it lost the lock
_AT_ONCE = 2  # for each new one, so that they never become more and more


Held = Mapping[tuple[str, str], tuple[int, str]]
"""Token and wait of what a process has and has not given back, by key and holder."""


class _Hold(NamedTuple):
    at: float
    token: int
    wait: Wait

    def stays(self, held: Held) -> bool:
        return held.get((self.wait.key, self.wait.holder)) == (self.token, self.wait.number)


class Expiring:
    """The holds of one process that end by themselves. Not for several threads at once."""

    def __init__(self) -> None:
        self._due: list[_Hold] = []

    def add(self, wait: Wait, token: int, held: Held) -> list[Wait]:
        """Note a new hold; some that ended long ago and that nobody gave back."""
        now = time.monotonic()
        if wait.hold is not None:
            heapq.heappush(self._due, _Hold(now + wait.hold + _LATER, token, wait))
        if len(self._due) > 2 * len(held) + 100:  # most were given back
            self._due = [each for each in self._due if each.stays(held)]
            heapq.heapify(self._due)
        ended: list[Wait] = []
        while self._due and self._due[0].at <= now and len(ended) < _AT_ONCE:
            old = heapq.heappop(self._due)
            if old.stays(held):
                ended.append(old.wait)
        return ended
