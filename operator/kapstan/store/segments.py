"""``ports.RunLog`` as numbered objects in a store: the journal of a flow run on S3. Works over any ``ports.Store``.

``<name>/j/<number>`` is a segment: immutable, made by a conditional create, so that two writers can never both have one
number. ``<name>/c/`` has copies of many segments in one object (see ``checkpoints``).

A new writer *opens*: it creates its opening at the next number, and where it is beaten by a busy older writer, 8
numbers ahead, and then takes every free number below. The older writer stops at its first lost number. An opener that
meets a higher attempt stops, and has fenced nobody: its opening does not count, and the writer passes over what it
took. **A writer appends only when it owns its opening and every number below is taken and read.** Segments of a run
that can still live are never deleted: a deleted number would be free again, and a late writer would believe that it
had won.

A log that is *buried* ends with a segment of kind ``grave``, made like any other by a conditional create. Nothing below
it counts any more and nothing above it is ever written, so that what is below may be deleted in any order.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from kapstan.errors import Fenced, StoreRefused, StoreUnsafe
from kapstan.ids import new_nonce
from kapstan.ports import Listed, ListedLog, Store
from kapstan.store.checkpoints import READERS, Checkpoints, read_each
from kapstan.store.framing import scan
from kapstan.store.segment import FORMAT, Kind, Segment, damaged

FENCE_AHEAD = 8
SILENT = 3600.0
"""Seconds after which a writer looks whether its log is still there: a machine may sleep for longer than retention."""
_HEAD = 48  # bytes in which the kind of a segment stands
_ABOVE = 8  # a grave is among so many of the last: openers that jumped over it have died or are about to stop
_DELETED_AT_ONCE = 1000


def _clock() -> float:
    """Seconds that go on while the machine sleeps, where the system tells them."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


class SegmentLog:
    """One log; see ``ports.RunLog``. Used by one thread at a time."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self._token = ""
        self._attempt = 0
        self._next = 0
        self._wrote = 0.0
        self._fenced = False
        self._doubtful: Sequence[bytes] | None = None  # sent under number _next, and no answer came
        self._checkpoints = Checkpoints(store, name)

    def read(self) -> list[bytes]:
        return self._records(self._load())

    def open(
        self, opening: bytes, admit: Callable[[Sequence[bytes]], None] | None = None, *, attempt: int = 0
    ) -> list[bytes]:
        segments = self._load()
        records = self._records(segments)
        if admit is not None:
            admit(records)
        self._refuse_buried(segments)
        self._token, self._attempt, self._fenced, self._doubtful = new_nonce(), attempt, True, None
        number, distance = max(segments, default=-1) + 1, FENCE_AHEAD
        shown: set[int] = set()
        while not self._create(number, mine := self._segment(number, "open", (opening,))):
            last = max(segments, default=-1)
            shown = set(self._shown(last))
            if admit is not None:  # whoever won may be an attempt that refuses us, and a jump would fence it
                segments.update(self._there(range(last + 1, max(shown, default=last) + 1)))
                admit(self._records(segments))
                self._refuse_buried(segments)
            number, distance = max(shown, default=last) + distance, 2 * distance
        if missing := [below for below in range(number) if below not in segments]:
            self._take(missing, shown, segments)
            self._refuse_buried(segments)  # and what this opening is above it, whoever clears the log deletes
            records = self._records(segments)
            if admit is not None:
                admit(records)
        segments[number] = mine
        self._checkpoints.follow(segments, number + 1)
        self._next, self._fenced, self._wrote = number + 1, False, _clock()
        return records

    def append(self, records: Sequence[bytes]) -> None:
        if self._doubtful is not None:  # it may have landed, so the same bytes go first
            self._write(self._doubtful)
        self._write(records)

    def bury(self, grave: bytes, admit: Callable[[Sequence[bytes]], None]) -> None:
        token = new_nonce()
        while segments := self._load():
            admit(self._records(segments))
            if _graves(segments):
                return
            number = max(segments) + 1
            if self._create(number, Segment(number, token, "grave", (grave,)).encode()):
                return

    def clear(self) -> dict[str, str]:
        grave = self._grave()
        if not grave:
            raise ValueError(f"the journal {self._name} is not buried")
        kept = self._segment_key(min(grave))
        refused: dict[str, str] = {}
        page: list[str] = []
        for key in self._store.keys(f"{self._name}/"):
            if key != kept:
                page.append(key)
            if len(page) == _DELETED_AT_ONCE:
                refused |= self._store.delete_each(page)
                page = []
        return refused | self._store.delete_each(page)

    def remove(self) -> None:
        for part in ("j", "c"):  # checkpoints last
            keys = list(self._store.keys(f"{self._name}/{part}/"))
            last = keys[-1:] if part == "j" and self._grave() else []
            self._store.delete(keys[: len(keys) - len(last)])
            if last:
                self._store.delete(list(self._store.keys(f"{self._name}/c/")))
                self._store.delete(last)

    def close(self) -> None:
        self._checkpoints.close()

    # ------------------------------------------------------------------ writing

    def _segment(self, number: int, kind: Kind, records: Sequence[bytes]) -> bytes:
        return Segment(number, self._token, kind, tuple(records), self._attempt).encode()

    def _write(self, records: Sequence[bytes]) -> None:
        if not self._token:
            raise ValueError(f"the journal {self._name} is not open for writing")
        self._doubtful = records
        if _clock() - self._wrote > SILENT and not self._there([self._next - 1]):
            self._fenced = True  # what it wrote last was deleted with the log, and the next number may be free again
        while self._fenced or not self._create(self._next, body := self._segment(self._next, "data", records)):
            self._pass_over()
        # Told again, if an exception of a signal comes now: in doubt it is written again.
        self._checkpoints.add(self._next, body)
        # Both at once: an exception of a signal between them would leave a number that is not ours to write.
        self._doubtful, self._next, self._wrote = None, self._next + 1, _clock()
        self._checkpoints.cut()

    def _pass_over(self) -> None:
        """The next number is somebody else's: go on behind it if that is an opener which must stop, not we.

        Raises:
            Fenced: another attempt has the log.
        """
        there = {} if self._fenced else self._there([self._next])
        for number, body in there.items():
            if Segment.decode(self._name, body).is_behind(self._attempt):
                self._checkpoints.add(number, body)
                self._next = number + 1
                return
        self._fenced = True
        raise Fenced(f"another attempt has taken over the journal {self._name}")

    def _create(self, number: int, body: bytes) -> bool:
        return self._store.create(self._segment_key(number), body)

    def _take(self, missing: Sequence[int], shown: set[int], segments: dict[int, bytes]) -> None:
        """Take every number of ``missing``: fill it, or read what an older writer won (``shown`` are known to be won).

        The lowest is tried alone, which mostly stops the older writer, the others at once: it goes on as fast as we
        do, and in turns it would win nearly all of them. Nothing is read before all are taken.
        """
        fills = {number: self._segment(number, "fill", ()) for number in missing if number not in shown}
        free = list(fills)
        ours = [self._create(number, fills[number]) for number in free[:1]]
        if len(free) > 1:
            with ThreadPoolExecutor(min(READERS, len(free)), thread_name_prefix="kapstan-fill") as pool:
                ours += pool.map(self._create, free[1:], [fills[number] for number in free[1:]])
        segments.update({number: fills[number] for number, is_ours in zip(free, ours, strict=True) if is_ours})
        won = [number for number in missing if number not in segments]
        segments.update(self._there(won))
        if gone := [number for number in won if number not in segments]:
            raise damaged(self._name, f"segment {gone[0]} was there and is gone")

    # ------------------------------------------------------------------ reading

    def _load(self) -> dict[int, bytes]:
        """As ``_load_all``; of a log that is buried the grave alone, also while the rest of it is being deleted."""
        try:
            return self._load_all()
        except StoreUnsafe:
            grave = self._grave()
            if not grave:
                raise
            return grave

    def _grave(self) -> dict[int, bytes]:
        """The grave by its number; {} if the log is not buried."""
        return _graves(self._there(self._shown(-1)[-_ABOVE:]))

    def _refuse_buried(self, segments: dict[int, bytes]) -> None:
        if _graves(segments):
            raise StoreRefused(f"the journal {self._name} was removed when its time was over; it cannot go on")

    def _load_all(self) -> dict[int, bytes]:
        """The segments that are there, by number.

        A number that the LIST does not show, below one that it shows, is asked for: a dead opener leaves holes, and a
        LIST passes a place before an object appears there.
        """
        segments = self._checkpoints.load()
        checkpointed = len(segments)
        shown = self._shown(checkpointed - 1)
        numbers = range(checkpointed, max(shown, default=-1) + 1)
        if len(shown) < len(numbers) and (grave := self._grave()):
            return grave  # not asked for a thousand numbers that were deleted
        segments.update(self._there(numbers))
        if gone := [number for number in shown if number not in segments]:
            raise damaged(self._name, f"segment {gone[0]} was there and is gone")
        return segments

    def _shown(self, after: int) -> list[int]:
        """The numbers above ``after`` that a LIST shows."""
        last = self._segment_key(after) if after >= 0 else ""
        return [int(key.rpartition("/")[2]) for key in self._store.keys(f"{self._name}/j/", after=last)]

    def _there(self, numbers: Sequence[int]) -> dict[int, bytes]:
        """Those of ``numbers`` that exist."""
        bodies = read_each(self._store, [self._segment_key(number) for number in numbers])
        return {number: body for number, body in zip(numbers, bodies, strict=True) if body is not None}

    def _records(self, segments: dict[int, bytes]) -> list[bytes]:
        """The records in order, after a check that no writer wrote behind its fence."""
        for grave in _graves(segments).values():
            return list(Segment.decode(self._name, grave).records)
        writer, attempt, by_writer = "", 0, ""
        records: list[bytes] = []
        for number in sorted(segments):
            body = segments[number]
            bodies, end = scan(body)
            # What ten thousand of a resume are: of the writer that has the log. Anything else is looked at in full.
            if by_writer and end == len(body) and bodies and bodies[0] == f"{FORMAT} {number} data{by_writer}".encode():
                records += bodies[1:]
                continue
            segment = Segment.decode(self._name, body)
            if segment.number != number:
                raise damaged(self._name, f"segment {segment.number} stands in the place of {number}")
            if segment.is_behind(attempt):
                continue
            if segment.kind == "open":
                writer, attempt = segment.token, segment.attempt
                by_writer = f" {writer} {attempt}"
            elif segment.kind == "data" and segment.token != writer:
                raise damaged(self._name, f"segment {number} was written by an attempt that had been fenced")
            records += segment.records
        return records

    def _segment_key(self, number: int) -> str:
        return f"{self._name}/j/{number:010d}"


def _graves(segments: Mapping[int, bytes]) -> dict[int, bytes]:
    return {number: body for number, body in segments.items() if b" grave " in body[:_HEAD]}


def listed_logs(objects: Iterable[Listed], prefix: str) -> Iterator[ListedLog]:
    """The logs that ``objects``, a listing of everything below ``prefix``, are of."""
    depth = prefix.count("/") + 1
    for name, group in itertools.groupby(objects, lambda found: "/".join(found.key.split("/")[:depth])):
        count = size = 0
        before = newest = 0.0
        last: Listed | None = None
        for found in group:  # checkpoints come first, then segments by number: the last one is the newest segment
            if last is not None:
                before = max(before, last.modified)
            last, count, size, newest = found, count + 1, size + found.size, max(newest, found.modified)
        assert last is not None
        bare = count == 1 and last.key != f"{name}/j/{0:010d}"
        yield ListedLog(name, count, size, newest, before, bare)
