"""A keyed work queue: each key at most once in line and at most once in work, whatever is heard in between.

Used by the loop. A key that is added while it is worked on is worked on once more afterwards; a key that failed waits,
longer each time; a key may be added for a later moment. Who adds never blocks. One event loop, no threads.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_BACKOFF = 0.2
"""Seconds before a key is tried again after its first failure; doubles."""
LAST_BACKOFF = 60.0


class WorkQueue(Generic[K]):
    """Keys to be worked on.

    Args:
        clock: Unix seconds; what moments given to `add_at` are compared with.
        jitter: a number in [0, 1) for each failure; backoffs are spread by it over half to all of their length.
    """

    def __init__(self, clock: Callable[[], float], jitter: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._jitter = jitter
        self._line: deque[K] = deque()
        self._dirty: set[K] = set()
        self._working: set[K] = set()
        self._later: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._order = 0
        self._changed = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        """Keys that are in line or in work, those that wait for a moment left out."""
        return len(self._dirty | self._working)

    @property
    def next_due(self) -> float | None:
        """The moment at which the next waiting key comes into line."""
        return min(self._due.values(), default=None)

    def add(self, key: K) -> None:
        """Bring a key into line."""
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._working:
            self._line.append(key)
        self._changed.set()

    def add_at(self, key: K, moment: float) -> None:
        """Bring a key into line at a moment; of several moments the earliest counts."""
        if moment >= self._due.get(key, float("inf")):
            return
        self._due[key] = moment
        self._order += 1
        heapq.heappush(self._later, (moment, self._order, key))
        self._changed.set()

    async def take(self) -> K | None:
        """The next key, in work from now on until `done` or `failed`; None once the queue is closed."""
        while not self._closed:
            wait = self._promote()
            if self._line:
                key = self._line.popleft()
                self._dirty.discard(key)
                self._working.add(key)
                if self._line:
                    self._changed.set()
                return key
            self._changed.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                continue
        return None

    def done(self, key: K) -> None:
        """Work on a key went well."""
        self._failures.pop(key, None)
        self._leave(key)

    def failed(self, key: K) -> float:
        """Work on a key failed: it comes back after a while; in how many seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        length = min(FIRST_BACKOFF * 2 ** min(failures, 20), LAST_BACKOFF)
        delay = length * (0.5 + self._jitter() / 2)
        self.add_at(key, self._clock() + delay)
        self._leave(key)
        return delay

    def close(self) -> None:
        """Let everybody who waits in `take` go."""
        self._closed = True
        self._changed.set()

    def _leave(self, key: K) -> None:
        self._working.discard(key)
        if key in self._dirty:
            self._line.append(key)
        self._changed.set()

    def _promote(self) -> float | None:
        """Bring what is due into line; seconds until the next is, None if none is."""
        now = self._clock()
        while self._later:
            moment, _, key = self._later[0]
            if self._due.get(key) != moment:
                heapq.heappop(self._later)
                continue
            if moment > now:
                return moment - now
            heapq.heappop(self._later)
            del self._due[key]
            self.add(key)
        return None
