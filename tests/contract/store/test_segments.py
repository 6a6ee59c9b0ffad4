"""What only segments have: fences ahead, holes, checkpoints; every crash point; a network that loses, delays and
repeats."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import count

import pytest
from tests.contract.store.crashing import Crash, CrashingStore
from tests.contract.store.writers import Ledger, Writer, check
from tests.servers.fault_proxy import FaultProxy
from tests.servers.minio import Minio

from kapstan.errors import Fenced, StoreUnavailable, StoreUnsafe
from kapstan.ports import Store
from kapstan.store import checkpoints
from kapstan.store.framing import frames
from kapstan.store.s3 import S3Store
from kapstan.store.segments import Segment, SegmentLog

NAME = "flows/run"


def kinds(store: Store) -> str:
    """One letter for each number: o(pen), f(ill), d(ata), and - for a hole."""
    held = {int(key[-10:]): Segment.decode(NAME, body(store, key)).kind for key in store.keys(f"{NAME}/j/")}
    return "".join(held.get(number, "-")[0] for number in range(max(held, default=-1) + 1))


def body(store: Store, key: str) -> bytes:
    stored = store.get(key)
    assert stored is not None
    return stored.body


class BeatingStore(CrashingStore):
    """At chosen creates a busy old writer comes first: it appends in between."""

    def __init__(self, store: Store, old: SegmentLog, at: set[int], crash_at: int = 0) -> None:
        super().__init__(store, crash_at)
        self._old = old
        self._beat = at
        self.old_records = 0

    def create(self, key: str, body: bytes) -> bool:
        if self.creates + 1 in self._beat:
            self._old.append([f"old {self.old_records}".encode()])
            self.old_records += 1
        return super().create(key, body)


def test_a_beaten_open_fences_eight_ahead_and_fills_upwards(store: Store) -> None:
    old = SegmentLog(store, NAME)
    old.open(b"open 1")
    new = SegmentLog(BeatingStore(store, old, {1, 3}), NAME)  # beaten at its number, and once while it fills
    assert new.open(b"open 2") == [b"open 1", b"old 0", b"old 1"]
    assert kinds(store) == "oddffffffo"
    with pytest.raises(Fenced):
        old.append([b"late"])
    new.append([b"a"])
    assert SegmentLog(store, NAME).read() == [b"open 1", b"old 0", b"old 1", b"open 2", b"a"]


def test_an_open_that_is_beaten_again_doubles_the_distance(s3: S3Store) -> None:
    first = SegmentLog(s3, NAME)
    first.open(b"open 1")

    class Rival(CrashingStore):
        def create(self, key: str, body: bytes) -> bool:
            if self.creates < 2:  # somebody else fences at the same place, just before
                number = int(key[-10:])
                s3.create(key, Segment(number, f"rival-{number}", "open", (f"rival {number}".encode(),)).encode())
            return super().create(key, body)

    log = SegmentLog(Rival(s3), NAME)
    assert log.open(b"open 2") == [b"open 1", b"rival 1", b"rival 9"]
    assert kinds(s3) == "oo" + "f" * 7 + "o" + "f" * 15 + "o"


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_opener_may_die_at_any_create(store: Store, when: str) -> None:
    """Every crash point of an open that is beaten once: the old writer goes on or is fenced, the next opener reads
    all."""
    for point in count(1):
        name = f"{NAME}-{point}"
        old = SegmentLog(store, name)
        old.open(b"open 1")
        old.append([b"a"])
        beating = BeatingStore(store, old, {1}, crash_at=point)
        beating._when = when  # type: ignore[assignment]
        crashed = False
        try:
            SegmentLog(beating, name).open(b"open 2")
        except Crash:
            crashed = True
        acknowledged = [b"open 1", b"a", b"old 0"]
        for number in range(12):  # the old one works on until it meets what the dead one left
            try:
                old.append([f"more {number}".encode()])
            except Fenced:
                break
            acknowledged.append(f"more {number}".encode())
        third = SegmentLog(store, name)
        seen = third.open(b"open 3")
        assert [record for record in seen if record != b"open 2"] == acknowledged
        third.append([b"z"])
        assert SegmentLog(store, name).read() == [*seen, b"open 3", b"z"]
        with pytest.raises(Fenced):
            old.append([b"late"])
        if not crashed:
            assert point == 10, "nine creates: one beaten, one fence, seven between them"
            break


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_append_that_dies_is_there_or_not_and_nothing_else(store: Store, when: str) -> None:
    crashing = CrashingStore(store, 3, when)  # type: ignore[arg-type]
    log = SegmentLog(crashing, NAME)
    log.open(b"open 1")
    log.append([b"a"])
    with pytest.raises(Crash):
        log.append([b"b"])
    expected = [b"open 1", b"a"] if when == "before" else [b"open 1", b"a", b"b"]
    assert SegmentLog(store, NAME).open(b"open 2") == expected


def test_what_was_in_doubt_is_settled_by_the_next_append(s3: S3Store) -> None:
    class Away(CrashingStore):
        def create(self, key: str, body: bytes) -> bool:
            is_ours = super().create(key, body)
            if self.creates == 2:
                raise StoreUnavailable("no answer")
            return is_ours

    log = SegmentLog(Away(s3), NAME)
    log.open(b"open 1")
    with pytest.raises(StoreUnavailable):
        log.append([b"a"])
    log.append([b"b"])
    assert log.read() == [b"open 1", b"a", b"b"]


# ---------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "CHUNK", 4)


def write(store: Store, *, appends: int) -> list[bytes]:
    log = SegmentLog(store, NAME)
    log.open(b"open 1")
    records = [f"r{number}".encode() for number in range(appends)]
    for record in records:
        log.append([record])
    log.close()
    return [b"open 1", *records]


@pytest.mark.usefixtures("short_chunks")
def test_full_chunks_become_checkpoints_and_are_read_instead_of_segments(store: Store) -> None:
    records = write(store, appends=9)
    assert [int(key[-10:]) for key in store.keys(f"{NAME}/c/")] == [4, 8]
    reads: list[str] = []

    class Watched(CrashingStore):
        def get(self, key: str):  # type: ignore[no-untyped-def]
            reads.append(key)
            return super().get(key)

    assert SegmentLog(Watched(store), NAME).read() == records
    assert sorted(reads) == [
        f"{NAME}/c/0000000004",
        f"{NAME}/c/0000000008",
        f"{NAME}/j/0000000008",
        f"{NAME}/j/0000000009",
    ]


@pytest.mark.usefixtures("short_chunks")
def test_a_checkpoint_that_is_missing_is_written_by_the_next_opener(store: Store) -> None:
    records = write(store, appends=14)
    whole = {key: body(store, key) for key in store.keys(f"{NAME}/c/")}
    assert len(whole) == 3
    store.delete([f"{NAME}/c/0000000004", f"{NAME}/c/0000000012"])
    log = SegmentLog(store, NAME)
    assert log.open(b"open 2") == records
    log.append([b"a"])
    log.close()
    assert {key: body(store, key) for key in whole} == whole, "the same bytes, whoever writes them"
    assert SegmentLog(store, NAME).read() == [*records, b"open 2", b"a"]


@pytest.fixture
def short_blocks(short_chunks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "BLOCK", 2)


def objects(store: Store) -> list[str]:
    return [key.rpartition("/")[2].lstrip("0") for key in store.keys(f"{NAME}/c/")]


@pytest.mark.usefixtures("short_blocks")
def test_full_blocks_are_read_instead_of_their_chunks(store: Store) -> None:
    records = write(store, appends=21)
    assert objects(store) == ["4", "8", "8b", "12", "16", "16b", "20"]
    chunks = [body(store, f"{NAME}/c/{end:010d}") for end in (12, 16)]
    assert body(store, f"{NAME}/c/0000000016b") == b"".join(chunks)
    store.delete([f"{NAME}/c/{end:010d}" for end in (4, 8, 12, 16)])
    store.delete([f"{NAME}/j/{number:010d}" for number in range(20)])
    assert SegmentLog(store, NAME).read() == records


@pytest.mark.parametrize("gone", [["8b"], ["16b"], ["8b", "16b"], ["4", "8b"], ["8", "12", "16b", "20"]], ids="-".join)
@pytest.mark.usefixtures("short_blocks")
def test_what_is_missing_of_checkpoints_is_written_by_the_next_opener(store: Store, gone: list[str]) -> None:
    records = write(store, appends=21)
    whole = {key: body(store, key) for key in store.keys(f"{NAME}/c/")}
    store.delete([f"{NAME}/c/{name.zfill(11 if name[-1] == 'b' else 10)}" for name in gone])
    assert len(objects(store)) == len(whole) - len(gone)
    assert SegmentLog(store, NAME).read() == records
    log = SegmentLog(store, NAME)
    assert log.open(b"open 2") == records
    log.append([b"a"])
    log.close()
    assert {key: body(store, key) for key in store.keys(f"{NAME}/c/")} | whole == whole | {
        f"{NAME}/c/0000000024": body(store, f"{NAME}/c/0000000024"),
        f"{NAME}/c/0000000024b": body(store, f"{NAME}/c/0000000024b"),
    }
    assert SegmentLog(store, NAME).read() == [*records, b"open 2", b"a"]


@pytest.mark.usefixtures("short_blocks")
def test_of_large_segments_there_are_chunks_only(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "BLOCK_BYTES", 1000)
    log = SegmentLog(store, NAME)
    log.open(b"open 1")
    for number in range(17):
        log.append([b"large" * 100 if number == 5 else b"small"])
    log.close()
    assert objects(store) == ["4", "8", "12", "16", "16b"]


@pytest.mark.parametrize("name", ["0000000004", "0000000008b"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda old: old[:-1],
        lambda old: old[:40] + b"~" + old[41:],
        lambda old: old + old[: old.index(b"\n") + 1],
        lambda old: b"",
    ],
    ids=["cut", "changed", "more", "empty"],
)
@pytest.mark.usefixtures("short_blocks")
def test_a_damaged_checkpoint_is_refused(s3: S3Store, name: str, damage) -> None:  # type: ignore[no-untyped-def]
    write(s3, appends=9)
    if name.endswith("4"):
        s3.delete([f"{NAME}/c/0000000008b"])
    s3.put(f"{NAME}/c/{name}", damage(body(s3, f"{NAME}/c/{name}")))
    for use in (lambda: SegmentLog(s3, NAME).read(), lambda: SegmentLog(s3, NAME).open(b"open 2")):
        with pytest.raises(StoreUnsafe, match=r"the checkpoint of segments 0 to .*do not resume this run"):
            use()


@pytest.mark.usefixtures("short_blocks")
def test_a_writer_dies_at_every_create_with_checkpoints(s3: S3Store) -> None:
    """Attempts of a run each live for a few writes; the next one finds everything that was acknowledged."""
    chooser = random.Random(5)
    acknowledged: list[bytes] = []
    for attempt in range(25):
        log = SegmentLog(CrashingStore(s3, chooser.randint(2, 9), chooser.choice(("before", "after"))), NAME)
        try:
            seen = log.open(f"open {attempt}".encode())
            assert [record for record in acknowledged if record not in seen] == []
            for number in count():
                log.append([f"{attempt} {number}".encode()])
                acknowledged.append(f"{attempt} {number}".encode())
        except Crash:
            continue
        finally:
            log.close()
    final = SegmentLog(s3, NAME).read()
    assert len(set(final)) == len(final)
    assert [record for record in final if record in set(acknowledged)] == acknowledged


# ---------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda old: old[:-3] + b"xx\n", "a segment's checksum does not hold"),
        (
            lambda old: Segment(2, "another", "data", (b"x",)).encode(),
            "segment 2 was written by an attempt that had been",
        ),
        (lambda old: Segment(7, "another", "data", (b"x",)).encode(), "segment 7 stands in the place of 2"),
        (lambda old: old[:-5], "a segment's checksum does not hold"),
        (lambda old: old + b"0", "a segment's checksum does not hold"),
        (lambda old: b"", "a segment's checksum does not hold"),
        (  # of the writer that has the log, but another number's
            lambda old: Segment(3, Segment.decode(NAME, old).token, "data", (b"x",)).encode(),
            "segment 3 stands in the place of 2",
        ),
        (lambda old: frames((b"2 2 data", b"x")), "the head of a segment cannot be read"),
        (lambda old: frames((b"\xff", b"x")), "the head of a segment cannot be read"),
    ],
)
def test_a_journal_that_was_tampered_with_is_refused(s3: S3Store, damage, says: str) -> None:  # type: ignore[no-untyped-def]
    write(s3, appends=4)
    key = f"{NAME}/j/0000000002"
    s3.put(key, damage(body(s3, key)))
    for use in (lambda: SegmentLog(s3, NAME).read(), lambda: SegmentLog(s3, NAME).open(b"open 2")):
        with pytest.raises(StoreUnsafe, match=f"{says}.*Nothing was changed; do not resume this run"):
            use()
    assert len(list(s3.keys(f"{NAME}/j/"))) == 5


def test_records_that_stand_before_any_opening_are_refused(s3: S3Store) -> None:
    s3.put(f"{NAME}/j/0000000000", frames((b"2 0 data", b"x")))
    with pytest.raises(StoreUnsafe, match="the head of a segment cannot be read"):
        SegmentLog(s3, NAME).read()


# ---------------------------------------------------------------------------------------------- a bad network


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.usefixtures("short_chunks")
def test_take_overs_through_a_bad_network_lose_and_double_nothing(minio: Minio, namespace: str, seed: int) -> None:
    """Attempts take over busy ones that are never told; a third of the openers die while they open."""
    chooser = random.Random(seed)
    faults = {"drop_reply": 0.12, "drop_request": 0.08, "unavailable": 0.05, "late": 0.05}
    with FaultProxy(minio.url, faults, seed=seed).running() as proxy:  # type: ignore[arg-type]
        behind = S3Store.from_settings(minio.settings(proxy.url, namespace=namespace))
        stores = [CrashingStore(behind, chooser.choice((0, 0, chooser.randint(1, 10)))) for _ in range(10)]
        ledger = Ledger()
        writers: list[Writer] = []
        for number, store in enumerate(stores):
            writers.append(Writer(store.log(NAME), f"w{number}", ledger).start().wait_for(6))
        last = Writer(behind.log(NAME), "last", ledger).start().wait_for(4).stop()
        ends = [writer.join().end for writer in writers]
        proxy.settle()
        final = SegmentLog(behind, NAME).read()
        behind.close()
    check(final, [*writers, last])
    assert set(ends) == {"fenced", "crashed"}
    assert all(proxy.counts[fault] > 3 for fault in faults), proxy.counts
    assert proxy.counts["late_412"] > 0, "late deliveries arrived behind the fence"
    recognised = proxy.counts["status_412"] - sum(store.beaten for store in stores)
    assert recognised > 3, "lost replies were recognised as one's own"


def test_a_store_that_is_killed_and_comes_back_interrupts_nobody(own_minio: Minio) -> None:
    with FaultProxy(own_minio.url, {}).running() as proxy:
        store = S3Store.from_settings(own_minio.settings(proxy.url))
        writer = Writer(store.log(NAME), "w", Ledger()).start().wait_for(20)
        own_minio.kill()
        proxy.wait_for_gone(5)
        held = len(writer.acknowledged)
        own_minio.start()
        writer.wait_for(held + 20).stop()
        final = store.log(NAME).read()
        store.close()
    assert writer.end == "stopped"
    check(final, [writer])
    assert final == [writer.opening, *writer.acknowledged]


def test_a_late_opener_that_is_refused_does_not_fence_the_attempt_that_beat_it(store: Store) -> None:
    """Attempt 2 has read the journal, then attempt 3 opens and writes: 2 must go without having jumped ahead of 3."""
    first = SegmentLog(store, NAME)
    first.open(b"open 1")
    third = SegmentLog(store, NAME)

    class Late(CrashingStore):
        def create(self, key: str, body: bytes) -> bool:
            if self.creates == 0:
                third.open(b"open 3")
                third.append([b"of 3"])
            return super().create(key, body)

    def admit(records: Sequence[bytes]) -> None:
        if b"open 3" in records:
            raise Fenced("a higher attempt has begun")

    with pytest.raises(Fenced, match="a higher attempt has begun"):
        SegmentLog(Late(store), NAME).open(b"open 2", admit)
    third.append([b"more"])
    assert SegmentLog(store, NAME).read() == [b"open 1", b"open 3", b"of 3", b"more"]
