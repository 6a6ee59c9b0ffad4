"""Two attempts of one run open at one time: the lower one stops, and has fenced nobody who must go on."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from tests.contract.store.crashing import CrashingStore

from kapstan.errors import Fenced, StoreUnavailable
from kapstan.ports import Store
from kapstan.store.framing import frames
from kapstan.store.segments import Segment, SegmentLog

NAME = "flows/run"


def attempts(records: Sequence[bytes]) -> list[int]:
    return [int(record.split()[1]) for record in records if record.startswith(b"open")]


def begin(log: SegmentLog, attempt: int) -> list[bytes]:
    """As ``Journal.open``: refused where an attempt of this number or a higher one has begun."""

    def admit(records: Sequence[bytes]) -> None:
        if max(attempts(records), default=0) >= attempt:
            raise Fenced(f"attempt {attempt} is refused")

    records = log.open(b"open %d" % attempt, admit, attempt=attempt)
    admit(records)
    return records


def begin_and_append(log: SegmentLog, attempt: int) -> None:
    begin(log, attempt)
    log.append([b"of %d" % attempt])


class Interleaved(CrashingStore):
    """A store of attempt 2. Attempt 1 is busy and beats its first create; before its create number ``at`` attempt 3
    opens, and appends before each one that follows."""

    def __init__(self, store: Store, first: SegmentLog, third: SegmentLog, at: int) -> None:
        super().__init__(store)
        self._first, self._third, self._moment = first, third, at
        self._lock = threading.Lock()
        self.opened = False
        self.written: list[bytes] = []

    def create(self, key: str, body: bytes) -> bool:
        if "/c/" in key:  # written by a thread of its own, at any time
            return super().create(key, body)
        with self._lock:  # numbers are filled on several threads
            if self.creates == 0:
                self._first.append([b"of 1"])
            if self.opened:
                self.append()
            elif self.creates + 1 == self._moment:
                begin(self._third, 3)
                self.opened = True
                self.append()
            return super().create(key, body)

    def append(self) -> None:
        record = f"of 3: {len(self.written)}".encode()
        self._third.append([record])
        self.written.append(record)


@pytest.mark.parametrize("at", range(1, 9))
def test_an_attempt_that_is_refused_has_fenced_no_higher_one(store: Store, at: int) -> None:
    """Whenever attempt 3 opens, between any two steps by which attempt 2 jumps ahead of attempt 1."""
    first, third = SegmentLog(store, NAME), SegmentLog(store, NAME)
    begin(first, 1)
    between = Interleaved(store, first, third, at)
    second = SegmentLog(between, NAME)
    with pytest.raises(Fenced):
        begin_and_append(second, 2)
    assert between.opened, "attempt 2 made so many creates"
    for _ in range(12):  # past the number that attempt 2 had jumped to
        between.append()
    after = SegmentLog(store, NAME).read()
    assert attempts(after) in ([1, 3], [1, 2, 3]), "2 had the log before 3 came, or never"
    assert [record for record in after if record.startswith(b"of 3")] == between.written
    for late in (first, second):
        with pytest.raises(Fenced):
            late.append([b"late"])
    after = SegmentLog(store, NAME).read()
    fourth = SegmentLog(store, NAME)
    assert begin(fourth, 4) == after
    fourth.append([b"of 4"])
    with pytest.raises(Fenced):
        third.append([b"late"])
    assert SegmentLog(store, NAME).read() == [*after, b"open 4", b"of 4"]


def test_a_checkpoint_holds_what_was_passed_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kapstan.store.checkpoints.CHUNK", 4)
    first, third = SegmentLog(store, NAME), SegmentLog(store, NAME)
    begin(first, 1)
    between = Interleaved(store, first, third, 2)
    with pytest.raises(Fenced):
        begin(SegmentLog(between, NAME), 2)
    for _ in range(20):
        between.append()
    third.close()
    checkpoints = list(store.keys(f"{NAME}/c/"))
    assert len(checkpoints) > 5
    before = SegmentLog(store, NAME).read()
    below = len(checkpoints) * 4
    store.delete([key for key in store.keys(f"{NAME}/j/") if int(key[-10:]) < below])
    assert SegmentLog(store, NAME).read() == before


def test_what_is_in_doubt_goes_behind_what_it_passes_over(store: Store) -> None:
    """The store stays silent just when the number was lost to an opener that is refused."""
    third = SegmentLog(store, NAME)
    begin(third, 3)
    silent = SilentOnce(store)
    third._store = silent
    store.create(f"{NAME}/j/{1:010d}", Segment(1, "of 2", "fill", (), 2).encode())
    silent.silent = True
    with pytest.raises(StoreUnavailable):
        third.append([b"a"])
    third.append([b"b"])
    assert SegmentLog(store, NAME).read() == [b"open 3", b"a", b"b"]


class SilentOnce(CrashingStore):
    """``get`` does not answer once."""

    silent = False

    def get(self, key: str):  # type: ignore[no-untyped-def]
        if self.silent:
            self.silent = False
            raise StoreUnavailable("no answer")
        return super().get(key)


def of_format_1(number: int, kind: str, token: str, *records: bytes) -> bytes:
    return frames((f"1 {number} {kind} {token}".encode(), *records))


def test_a_journal_of_the_format_before_is_read_and_gone_on_with(store: Store) -> None:
    """Its segments name no attempt: an opening counts wherever it stands, and whoever loses a number is fenced."""
    written = [("open", "one", b"open 1"), ("data", "one", b"a"), ("open", "two", b"open 2"), ("data", "two", b"b")]
    for number, (kind, token, record) in enumerate(written):
        store.create(f"{NAME}/j/{number:010d}", of_format_1(number, kind, token, record))
    records = [record for _, _, record in written]
    assert SegmentLog(store, NAME).read() == records
    third = SegmentLog(store, NAME)
    assert begin(third, 3) == records
    third.append([b"c"])
    store.create(f"{NAME}/j/{6:010d}", of_format_1(6, "fill", "another"))
    with pytest.raises(Fenced):
        third.append([b"d"])
    assert begin(SegmentLog(store, NAME), 4) == [*records, b"open 3", b"c"]
