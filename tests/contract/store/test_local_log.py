"""The local journal file: torn tails, damage, writers that are killed or interrupted, locks that others hold."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kapstan.errors import Fenced, StoreRefused, StoreUnavailable, StoreUnsafe
from kapstan.store import local_log
from kapstan.store.files import held
from kapstan.store.framing import frame
from kapstan.store.local import LocalStore
from kapstan.store.local_log import LocalLog

ROOT = Path(__file__).parents[3]
RECORDS = [b"open 1", b"first", b"", b"second \n 00000001 deadbeef x\n"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "logs" / "flows" / "run.log"


@pytest.fixture
def new_log(path: Path):  # type: ignore[no-untyped-def]
    logs: list[LocalLog] = []

    def new(*, deadline: float = 10.0) -> LocalLog:
        logs.append(LocalLog(path, fsync=False, deadline=deadline))
        return logs[-1]

    yield new
    for log in logs:
        log.close()


def write(new_log) -> bytes:  # type: ignore[no-untyped-def]
    log = new_log()
    log.open(RECORDS[0])
    for record in RECORDS[1:]:
        log.append([record])
    return log._path.read_bytes()


def test_a_tail_torn_at_any_byte_is_cut_off_and_nothing_before_it(new_log, path: Path) -> None:  # type: ignore[no-untyped-def]
    whole = write(new_log)
    last = frame(RECORDS[-1])
    assert whole.endswith(last)
    for kept in range(len(last)):
        torn = whole[: len(whole) - len(last) + kept]
        path.write_bytes(torn)
        assert new_log().read() == RECORDS[:-1]
        assert path.read_bytes() == torn, "a reader changes nothing"
        log = new_log()
        assert log.open(b"open 2") == RECORDS[:-1]
        log.append([b"next"])
        assert new_log().read() == [*RECORDS[:-1], b"open 2", b"next"]
        log.close()


def test_a_tail_of_zeros_as_a_power_cut_leaves_it_is_cut_off(new_log, path: Path) -> None:  # type: ignore[no-untyped-def]
    path.parent.mkdir(parents=True)
    path.write_bytes(write(new_log) + bytes(5000))
    assert new_log().open(b"open 2") == RECORDS


def test_a_changed_byte_with_good_records_behind_it_is_damage_and_no_torn_tail(new_log, path: Path) -> None:  # type: ignore[no-untyped-def]
    whole = write(new_log)
    first = len(frame(RECORDS[0]))
    for at in range(first, first + len(frame(RECORDS[1]))):
        damaged = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        path.write_bytes(damaged)
        for use in (lambda: new_log().read(), lambda: new_log().open(b"open 2")):
            with pytest.raises(StoreUnsafe, match=f"is damaged at byte {first}, and records follow"):
                use()
        assert path.read_bytes() == damaged


def test_a_changed_newline_loses_no_record_silently(new_log, path: Path) -> None:  # type: ignore[no-untyped-def]
    whole = write(new_log)
    ends = itertools.accumulate(len(frame(record)) for record in RECORDS)
    for at in (end - 1 for end in ends):
        path.write_bytes(whole[:at] + b"\x0b" + whole[at + 1 :])
        with pytest.raises(StoreUnsafe, match="is damaged at byte"):
            new_log().open(b"open 2")


def test_what_was_acknowledged_survives_the_kill_of_its_writer(new_log, path: Path) -> None:  # type: ignore[no-untyped-def]
    program = """
import sys
from pathlib import Path
from kapstan.store.local_log import LocalLog
log = LocalLog(Path(sys.argv[1]), fsync=False, deadline=10)
log.open(f"open {sys.argv[2]}".encode())
for number in range(10**9):
    log.append([f"{sys.argv[2]} {number} ".encode() + b"x" * 20_000])
    print(number, flush=True)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "operator")}
    acknowledged: list[str] = []
    for attempt in range(3):
        command = [sys.executable, "-c", program, str(path), str(attempt)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
            assert child.stdout is not None
            acknowledged += [f"{attempt} {child.stdout.readline().strip()}" for _ in range(50)]
            child.send_signal(signal.SIGKILL)
            acknowledged += [f"{attempt} {line.strip()}" for line in child.stdout if line.endswith("\n")]
    log = new_log()
    found = [record.decode().split(" x")[0] for record in log.open(b"open last")]
    log.append([b"next"])
    assert [record for record in found if record in set(acknowledged)] == acknowledged
    assert [record for record in found if record.startswith("open")] == ["open 0", "open 1", "open 2"]
    assert len(found) <= len(acknowledged) + 6, "at most one more for each attempt that was not told"


class Interrupted(BaseException):
    """What a signal handler raises, at any place."""


@pytest.mark.parametrize("made", ["whole", "half", "nothing"])
def test_an_append_that_a_signal_interrupts_is_settled_by_the_next(  # type: ignore[no-untyped-def]
    new_log, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    log = new_log()
    log.open(b"open 1")
    write_ = os.write

    def interrupted(descriptor: int, data: bytes) -> int:
        write_(descriptor, {"whole": data, "half": data[: len(data) // 2], "nothing": b""}[made])
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(local_log.os, "write", interrupted)
        with pytest.raises(Interrupted):
            log.append([b"a"])
    log.append([b"b"])
    expected = [b"open 1", b"a", b"b"] if made == "whole" else [b"open 1", b"b"]
    assert new_log().read() == expected
    other = new_log()
    assert other.open(b"open 2") == expected
    with pytest.raises(Fenced):
        log.append([b"late"])


def test_a_full_disk_refuses_the_append_and_leaves_the_log_whole(new_log, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    log = new_log()
    log.open(b"open 1")
    write_ = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return write_(descriptor, data[:20])

    with monkeypatch.context() as patch:
        patch.setattr(local_log.os, "write", full)
        with pytest.raises(StoreRefused, match=r"No space left on device\. KAPSTAN_HOME, or a result storage, must be"):
            log.append([b"a" * 10])
    log.append([b"b"])
    assert new_log().read() == [b"open 1", b"b"]


def test_a_journal_that_somebody_removed_fences_its_writer(new_log, path: Path) -> None:  # type: ignore[no-untyped-def]
    log = new_log()
    log.open(b"open 1")
    path.unlink()
    with pytest.raises(Fenced):
        log.append([b"a"])


def test_a_descriptor_that_user_code_closes_loses_nothing(new_log, path: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """As ``os.closerange`` does; the number may be a file of the user's by then."""
    log = new_log()
    log.open(b"open 1")
    os.close(log._descriptor)
    log.append([b"a"])
    number = log._descriptor
    os.close(number)
    own = os.open(tmp_path / "own", os.O_RDWR | os.O_CREAT)
    assert own == number, "the fault must bite"
    log.append([b"b"])
    os.close(log._descriptor)
    path.unlink()
    with pytest.raises(Fenced):
        log.append([b"c"])
    log.close()
    assert os.fstat(own).st_size == 0
    os.close(own)


def test_a_closed_descriptor_finds_every_record_in_the_file(new_log, path: Path) -> None:  # type: ignore[no-untyped-def]
    log = new_log()
    log.open(b"open 1")
    for record in (b"a", b"b"):
        os.close(log._descriptor)
        log.append([record])
    assert new_log().read() == [b"open 1", b"a", b"b"]


def test_a_lock_that_is_held_too_long_is_unavailable(new_log, path: Path) -> None:  # type: ignore[no-untyped-def]
    log = new_log(deadline=0.05)
    log.open(b"open 1")
    with path.open("rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match=r"another process has held .*run\.log for 0\.05 s; is one stopped?"):
            log.append([b"a"])
    log.append([b"b"])
    assert log.read() == [b"open 1", b"b"]


def test_what_changes_an_object_waits_for_its_lock(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store", deadline=0.05)
    store.create("register", b"1")
    there = store.get("register")
    assert there is not None
    changes = (
        lambda: store.replace("register", b"2", there.version),
        lambda: store.put("register", b"2"),
        lambda: store.delete(["register"]),
    )
    for change in changes:
        with held(tmp_path / "store" / "locks" / hashlib.sha256(b"register").hexdigest()[:2], 1.0):
            with pytest.raises(StoreUnavailable, match=r"another process has held .* for 0\.05 s"):
                change()
            assert store.get("register") == there


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.put("a/b", b"")
    log = store.log("flows/run")
    log.open(b"open 1")
    log.close()
    modes = {path: path.stat().st_mode & 0o077 for path in (tmp_path / "store").rglob("*")}
    assert set(modes.values()) == {0}, modes


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        StoreRefused, match=r"cannot use .*/file: File exists\. KAPSTAN_HOME, or a result storage, must be"
    ):
        LocalStore(tmp_path / "file" / "store")


def test_with_fsync_the_name_of_every_new_folder_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    store = LocalStore(tmp_path / "a" / "b" / "store", fsync=True)
    store.put("values/run/1", b"value")
    log = store.log("flows/run")
    log.open(b"open")
    log.close()
    top = tmp_path / "a"
    folders = {top.parent, top, *(path for path in top.rglob("*") if path.is_dir() and any(path.iterdir()))}
    locks = top / "b" / "store" / "locks"  # lock files need not survive
    assert {folder.stat().st_ino for folder in folders - {locks}} <= synced
