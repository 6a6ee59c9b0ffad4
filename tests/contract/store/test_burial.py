"""``RunLog.bury`` and ``clear``: a log that has ended for good, one suite over every adapter."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kapstan.errors import Fenced, StoreRefused
from kapstan.ports import RunLog, Store
from kapstan.store import segments
from kapstan.store.s3 import S3Store

NAME = "flows/run"


class Refused(Exception):
    pass


def anyway(_: Sequence[bytes]) -> None:
    """Admits whatever stands there."""


def refuse(_: Sequence[bytes]) -> None:
    raise Refused


def written(store: Store, records: int = 3) -> RunLog:
    log = store.log(NAME)
    log.open(b"opening")
    for number in range(records):
        log.append([b"%d" % number])
    return log


def test_a_grave_is_all_that_is_read(store: Store) -> None:
    written(store).close()
    store.log(NAME).bury(b"grave", anyway)
    assert store.log(NAME).read() == [b"grave"]
    assert store.log(NAME).clear() == {}
    assert store.log(NAME).read() == [b"grave"]
    assert store.log(NAME).clear() == {}, "again"
    assert [(log.name, log.objects, log.bare) for log in store.logs("flows/")] == [(NAME, 1, True)]


def test_checkpoints_go_too(store: Store) -> None:
    written(store, 150).close()
    store.log(NAME).bury(b"grave", anyway)
    assert store.log(NAME).read() == [b"grave"]
    store.log(NAME).clear()
    assert [log.objects for log in store.logs("flows/")] == [1]
    assert store.log(NAME).read() == [b"grave"]


def test_a_buried_log_cannot_be_opened(store: Store) -> None:
    written(store).close()
    store.log(NAME).bury(b"grave", anyway)
    for clear in (False, True):
        if clear:
            store.log(NAME).clear()
        log = store.log(NAME)
        with pytest.raises(Refused):
            log.open(b"opening 2", refuse)
        with pytest.raises(StoreRefused, match="cannot go on"):
            log.open(b"opening 2")
        log.close()
        assert store.log(NAME).read() == [b"grave"]


def test_who_wrote_until_then_is_fenced(store: Store) -> None:
    late = written(store)
    store.log(NAME).bury(b"grave", anyway)
    with pytest.raises(Fenced):
        late.append([b"late"])
    late.close()
    assert store.log(NAME).read() == [b"grave"]


@pytest.mark.parametrize("grave_too", [False, True])
def test_who_slept_until_the_log_was_deleted_is_fenced(
    s3: S3Store, monkeypatch: pytest.MonkeyPatch, grave_too: bool
) -> None:
    """Its next number is free again: without a look it would believe that it had won it."""
    now = 1000.0
    monkeypatch.setattr(segments, "_clock", lambda: now)
    sleeper = written(s3)
    other = written(s3)
    s3.log(NAME).bury(b"grave", anyway)
    s3.log(NAME).clear()
    if grave_too:
        s3.log(NAME).remove()
    now += segments.SILENT + 1
    with pytest.raises(Fenced):
        sleeper.append([b"late"])
    sleeper.close()
    other.close()
    assert s3.log(NAME).read() == ([] if grave_too else [b"grave"])


def test_who_slept_and_was_not_overtaken_goes_on(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(segments, "_clock", lambda: now)
    sleeper = written(s3)
    now += segments.SILENT + 1
    sleeper.append([b"late"])
    sleeper.close()
    assert s3.log(NAME).read()[-1] == b"late"


def test_what_is_admitted_is_what_stands_there_at_the_end(store: Store) -> None:
    """Another attempt begins between look and burial: the look is repeated, and may refuse."""
    written(store).close()
    looks: list[list[bytes]] = []

    def admit(records: Sequence[bytes]) -> None:
        looks.append(list(records))
        if b"opening 2" in records:
            raise Refused
        if len(looks) == 1 and overtakes:
            other = store.log(NAME)
            other.open(b"opening 2")
            other.close()

    # The local log is locked while it is admitted: there the other attempt comes before or after.
    overtakes = isinstance(store, S3Store)
    if not overtakes:
        other = store.log(NAME)
        other.open(b"opening 2")
        other.close()
    with pytest.raises(Refused):
        store.log(NAME).bury(b"grave", admit)
    assert len(looks) == (2 if overtakes else 1)
    assert store.log(NAME).read() == [b"opening", b"0", b"1", b"2", b"opening 2"]


def test_a_second_burial_is_shown_the_first(store: Store) -> None:
    written(store).close()
    store.log(NAME).bury(b"grave", anyway)
    shown: list[list[bytes]] = []
    store.log(NAME).bury(b"another grave", lambda records: shown.append(list(records)))
    assert shown == [[b"grave"]]
    assert store.log(NAME).read() == [b"grave"]


def test_nothing_is_buried_where_there_is_nothing(store: Store) -> None:
    store.log(NAME).bury(b"grave", refuse)
    assert store.log(NAME).read() == []
    assert list(store.logs("flows/")) == []
    with pytest.raises(ValueError, match="not buried"):
        store.log(NAME).clear()


def test_a_log_that_is_not_buried_is_not_cleared(store: Store) -> None:
    written(store).close()
    with pytest.raises(ValueError, match="not buried"):
        store.log(NAME).clear()
    assert len(store.log(NAME).read()) == 4


def test_removed_with_its_grave_it_may_begin_anew(store: Store) -> None:
    written(store, 70).close()
    store.log(NAME).bury(b"grave", anyway)
    store.log(NAME).remove()
    assert list(store.logs("flows/")) == []
    assert store.log(NAME).read() == []


def test_an_opener_that_jumped_over_a_grave_stops(s3: S3Store) -> None:
    """It was beaten by the end of the run, and the grave came before it looked again."""
    store = s3
    ender = written(store)
    opener = store.log(NAME)
    looks = 0

    def admit(_: Sequence[bytes]) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            ender.append([b"end"])  # takes the number that the opener is about to take
        elif looks == 2:
            store.log(NAME).bury(b"grave", anyway)  # takes the next one; the opener jumps ahead

    with pytest.raises(StoreRefused, match="cannot go on"):
        opener.open(b"opening 2", admit)
    opener.close()
    ender.close()
    assert store.log(NAME).read() == [b"grave"]
    store.log(NAME).clear()
    assert store.log(NAME).read() == [b"grave"]
    assert [log.objects for log in store.logs("flows/")] == [1], "the opening above the grave is gone as well"
