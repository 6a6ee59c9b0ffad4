"""``ports.RunLog``: one suite over segments in S3, segments in a directory, and the local file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.contract.store.writers import Ledger, Writer, check

from kapstan.errors import Fenced
from kapstan.ids import new_nonce
from kapstan.ports import RunLog
from kapstan.store.local import LocalStore
from kapstan.store.segments import SegmentLog

NewLog = Callable[[], RunLog]


@pytest.fixture(params=["s3", "segments in a folder", "local", "local with fsync"])
def new_log(request: pytest.FixtureRequest, tmp_path: Path) -> NewLog:
    """Each call is another process' view of the same log."""
    if request.param == "s3":
        s3 = request.getfixturevalue("s3")
        return lambda: s3.log("flows/run")
    local = LocalStore(tmp_path / "store", fsync=request.param == "local with fsync")
    if request.param == "segments in a folder":
        return lambda: SegmentLog(local, "flows/run")
    return lambda: local.log("flows/run")


@pytest.fixture
def open_log(new_log: NewLog, request: pytest.FixtureRequest) -> Callable[[bytes], RunLog]:
    def opened(opening: bytes) -> RunLog:
        log = new_log()
        request.addfinalizer(log.close)
        log.open(opening)
        return log

    return opened


OpenLog = Callable[[bytes], RunLog]


def test_a_log_that_was_never_written_is_empty(new_log: NewLog) -> None:
    assert new_log().read() == []


def test_what_was_appended_is_read_in_order_openings_included(new_log: NewLog, open_log: OpenLog) -> None:
    log = open_log(b"open 1")
    log.append([b"a"])
    log.append([b"b", b"", bytes(range(256)) * 800])
    assert new_log().read() == [b"open 1", b"a", b"b", b"", bytes(range(256)) * 800]


def test_an_open_returns_what_was_there_before_it(new_log: NewLog, open_log: OpenLog) -> None:
    open_log(b"open 1").append([b"a", b"b"])
    second = new_log()
    assert second.open(b"open 2") == [b"open 1", b"a", b"b"]
    second.append([b"c"])
    assert second.read() == [b"open 1", b"a", b"b", b"open 2", b"c"]
    second.close()


def test_an_older_writer_is_fenced_by_the_newer_ones_open(new_log: NewLog, open_log: OpenLog) -> None:
    first = open_log(b"open 1")
    second = open_log(b"open 2")
    for _ in range(2):
        with pytest.raises(Fenced, match="another attempt has taken over the journal"):
            first.append([b"late"])
    second.append([b"a"])
    assert new_log().read() == [b"open 1", b"open 2", b"a"]


def test_an_open_of_one_that_was_fenced_takes_over_again(new_log: NewLog, open_log: OpenLog) -> None:
    first, second = open_log(b"open 1"), open_log(b"open 2")
    assert first.open(b"open 3") == [b"open 1", b"open 2"]
    first.append([b"a"])
    with pytest.raises(Fenced):
        second.append([b"late"])
    assert new_log().read() == [b"open 1", b"open 2", b"open 3", b"a"]


def test_reading_fences_nobody(new_log: NewLog, open_log: OpenLog) -> None:
    log = open_log(b"open 1")
    assert new_log().read() == [b"open 1"]
    log.append([b"a"])


def test_an_open_that_is_not_admitted_changes_nothing(new_log: NewLog, open_log: OpenLog) -> None:
    log = open_log(b"open 1")
    log.append([b"a"])

    def refuse(records: object) -> None:
        assert records == [b"open 1", b"a"]
        raise Fenced("attempt 1 has begun")

    late = new_log()
    with pytest.raises(Fenced, match="attempt 1 has begun"):
        late.open(b"open 0", refuse)
    late.close()
    log.append([b"b"])
    assert new_log().read() == [b"open 1", b"a", b"b"]


def test_an_append_without_an_open_is_an_error(new_log: NewLog) -> None:
    with pytest.raises(ValueError, match="is not open for writing"):
        new_log().append([b"a"])


def test_logs_of_different_names_are_apart(s3: object, tmp_path: Path) -> None:
    for store in (s3, LocalStore(tmp_path / "other")):
        one, two = store.log(f"flows/{new_nonce()}"), store.log(f"flows/{new_nonce()}")  # type: ignore[attr-defined]
        one.open(b"one")
        two.open(b"two")
        one.append([b"a"])
        assert (one.read(), two.read()) == ([b"one", b"a"], [b"two"])
        one.close()
        two.close()


def test_busy_attempts_are_taken_over_one_by_another(new_log: NewLog) -> None:
    ledger = Ledger()
    writers: list[Writer] = []
    logs: list[RunLog] = []
    for number in range(6):
        logs.append(new_log())
        writers.append(Writer(logs[-1], f"w{number}", ledger, batch=1 + number % 3).start().wait_for(10))
    writers[-1].stop()
    assert [writer.join().end for writer in writers] == ["fenced"] * 5 + ["stopped"]
    check(new_log().read(), writers)
    for log in logs:
        log.close()


def test_attempts_that_open_all_at_once_leave_one_writer(new_log: NewLog) -> None:
    ledger = Ledger()
    busy_log = new_log()
    busy = Writer(busy_log, "busy", ledger).start().wait_for(5)
    logs = [new_log() for _ in range(4)]
    writers = [Writer(log, f"w{number}", ledger) for number, log in enumerate(logs)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.wait_for_open()
    final = new_log()
    last = Writer(final, "last", ledger).start().wait_for(3).stop()
    assert [writer.join().end for writer in (busy, *writers)] == ["fenced"] * 5
    check(new_log().read(), [busy, *writers, last])
    for log in (busy_log, *logs, final):
        log.close()
