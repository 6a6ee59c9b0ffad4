"""Reads the lists of runs by hour and route (keys ``i:`` and ``e:``) newest first, merged over the routes.

Each list is in the order of time, so a page takes the ends of the lists and goes on from there; where an earlier page
stopped is found by halving. Memory and reads are bounded by the page, never by how many runs there are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

from kapstan.errors import ConfigurationError
from kapstan.ids import RunId
from kapstan.queue.record import is_run_id
from kapstan.queue.wire import pack

if TYPE_CHECKING:
    from kapstan.queue.redis import RedisQueue

HOUR = 3_600_000
KEPT_HOURS = 8 * 24
_BATCH = 24  # hours whose routes are asked for together
_LONGEST = 1_000  # entries of one list in one read
_AT = 3  # bytes before the run ids of an entry
_ID = 22
_CURSOR = re.compile(r"([ier])(\d{1,15})(?:-(\S{22})?)")

Kind = Literal["i", "e"]


class Place(NamedTuple):
    """Where a run stands in the merged list: milliseconds since 1970, then its id."""

    at: int
    run_id: RunId


def cursor_of(kind: str, place: Place) -> str:
    """Never begins with ``-``, so that a command line takes it as it is."""
    return f"{kind}{place.at}-{place.run_id}"


def place_of(kind: str, cursor: str) -> Place:
    """Raises:
    ConfigurationError: no cursor of a list of this kind.
    """
    found = _CURSOR.fullmatch(cursor)
    if found is None or found[1] != kind:
        raise ConfigurationError(f"cursor={cursor!r}: give the cursor of the page before, with the same filters")
    return Place(int(found[2]), found[3] or "")


class RunLists:
    """The lists of one namespace."""

    def __init__(self, queue: RedisQueue) -> None:
        self._queue = queue

    def walk(
        self, kind: Kind, wanted: Callable[[str], bool], *, before: Place | None, since: int, size: int
    ) -> Iterator[list[Place]]:
        """Places older than ``before`` and not older than ``since`` (ms), newest first, in batches of up to ``size``.

        Args:
            wanted: says of a route whether its list is read; '' is the list that routes beyond the 500th share.
        """
        seconds, _ = self._queue.command(pack("TIME"))
        newest = int(seconds) * 1000 // HOUR + 1  # an hour ahead: what was listed before a clock went back
        oldest = max(newest - KEPT_HOURS - 1, since // HOUR)
        if before is not None:
            newest = min(newest, before.at // HOUR)
        for first in range(newest, oldest - 1, -_BATCH):
            hours = range(first, max(first - _BATCH, oldest - 1), -1)
            names = self._queue.commands([pack("SMEMBERS", f"{self._queue.prefix}{kind}r:{hour}") for hour in hours])
            for hour, found in zip(hours, names, strict=True):
                routes = [name.decode(errors="replace") for name in found]
                lists = [f"{kind}:{hour}:{name}" for name in routes if wanted(name)]
                for batch in self._of_hour(hour * HOUR, lists, before, size) if lists else ():
                    kept = [place for place in batch if place.at >= since]
                    if kept:
                        yield kept
                    if len(kept) < len(batch):
                        return

    def _of_hour(self, base: int, lists: list[str], before: Place | None, size: int) -> Iterator[list[Place]]:
        tails = [_Tail(f"{self._queue.prefix}{name}", base, max(16, 2 * size // len(lists))) for name in lists]
        for tail, length in zip(tails, self._queue.commands([pack("LLEN", tail.key) for tail in tails]), strict=True):
            tail.start = length
        if before is not None and before.at < base + HOUR:
            self._go_to(tails, before)
        self._read([tail for tail in tails if tail.start])
        while True:
            floor = max(tail.bound for tail in tails)
            found = sorted((place for tail in tails for place in tail.take(floor)), reverse=True)
            if before is not None:
                found = [place for place in found if place < before]
            for at in range(0, len(found), size):
                yield found[at : at + size]
            more = [tail for tail in tails if tail.start and tail.bound == floor]
            if not more:
                return
            self._read(more)

    def _go_to(self, tails: list[_Tail], before: Place) -> None:
        """Let each tail begin behind its last entry that is not newer than ``before``."""
        ends = self._queue.commands([pack("LINDEX", tail.key, -1) for tail in tails])
        ranges = {
            tail: (0, tail.start)
            for tail, end in zip(tails, ends, strict=True)
            if end is not None and tail.at(end) > before.at
        }
        while ranges:
            middles = {tail: (low + high) // 2 for tail, (low, high) in ranges.items() if low < high}
            for tail in ranges.keys() - middles.keys():
                tail.start = ranges.pop(tail)[0]
            reads = [pack("LINDEX", tail.key, middle) for tail, middle in middles.items()]
            for (tail, middle), entry in zip(middles.items(), self._queue.commands(reads), strict=True):
                low, high = ranges[tail]
                newer = entry is None or tail.at(entry) > before.at
                ranges[tail] = (low, middle) if newer else (middle + 1, high)

    def _read(self, tails: list[_Tail]) -> None:
        reads = [pack("LRANGE", tail.key, tail.next_start, tail.start - 1) for tail in tails]
        for tail, entries in zip(tails, self._queue.commands(reads), strict=True):
            tail.put(entries)


class _Tail:
    """The end of one list, read from behind: entries from ``start`` on were read, those before it are still to be.

    An entry is a moment and the runs that were submitted in it together.
    """

    def __init__(self, key: str, base: int, size: int) -> None:
        self.key = key
        self.start = 0
        self._base = base
        self._size = size
        self._entries: list[bytes] = []

    @property
    def next_start(self) -> int:
        return max(0, self.start - self._size)

    @property
    def bound(self) -> int:
        """No entry that is still to be read is newer than this moment; -1: all were read."""
        return self.at(self._entries[0]) if self.start else -1

    def at(self, entry: bytes) -> int:
        return self._base + int.from_bytes(entry[:_AT], "big")

    def put(self, entries: list[bytes]) -> None:
        """Take what stands between ``next_start`` and ``start``."""
        self._entries = entries + self._entries
        self.start = self.next_start if entries else 0
        self._size = min(2 * self._size, _LONGEST)

    def take(self, floor: int) -> Iterator[Place]:
        """What was read and is newer than ``floor``: nothing that is still to be read belongs among it. The oldest
        entry read stays, where more are to come: it is the bound."""
        while self._entries and (at := self.at(self._entries[-1])) > floor:
            run_ids = self._entries.pop()[_AT:]
            for first in range(0, len(run_ids), _ID):
                if is_run_id(run_id := run_ids[first : first + _ID]):  # else another program wrote it
                    yield Place(at, run_id.decode())
