"""Files of locks that somebody removes, damages or stops a process with: nobody is robbed, and no other key suffers."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contract.locks.program import REPOSITORY, Program

from kapstan import backend
from kapstan.errors import LockUnavailable, LockUnreadable
from kapstan.locking import FileSystemLockManager, LockLost
from kapstan.locks import files
from kapstan.locks.own_files import Mutex
from kapstan.locks.state import digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "locks"


@pytest.fixture
def locks(folder: Path) -> Iterator[FileSystemLockManager]:
    yield FileSystemLockManager(folder)
    backend.use(None)


@pytest.fixture
def start(locks: FileSystemLockManager) -> Iterator[Callable[[], Program]]:
    started: list[Program] = []

    def starting() -> Program:
        started.append(Program(locks))
        return started[-1]

    yield starting
    for each in started:
        each.close()


def clean(folder: Path, *names: str) -> None:
    """What a cleaner of ``/tmp`` does."""
    for name in names:
        for path in folder.glob(name):
            path.unlink()


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_mutex_that_was_removed_is_not_two(
    locks: FileSystemLockManager, folder: Path, start: Callable[[], Program], tmp_path: Path
) -> None:
    """Each of four processes had the old one open, and four more begin with a new one, which goes away again and
    again: between any two steps of a change."""
    crowd = [start() for _ in range(4)]
    for number, each in enumerate(crowd):
        assert each.ask("acquire", f"own-{number}", "a") == "True"
    clean(folder, "mutex")
    crowd += [start() for _ in range(4)]
    record = tmp_path / "record"
    for each in crowd:
        each.tell("crowd", "k", 20, record)
    for _ in range(20):
        until(lambda: record.exists() and (folder / "mutex").exists())
        clean(folder, "mutex")
    assert [each.answer() for each in crowd] == ["20"] * 8
    lines = [line.split() for line in record.read_text().splitlines()]
    assert len(lines) == 320
    for entry, leave in zip(lines[::2], lines[1::2], strict=True):
        assert (entry[0], leave[0], entry[1:]) == ("in", "out", leave[1:])
    assert not locks.is_locked("k")


def test_a_change_that_was_checked_is_not_overtaken_under_another_mutex(
    locks: FileSystemLockManager, folder: Path, start: Callable[[], Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutex is removed between the check and the rename: the other process had the lock, and lost it to that."""
    other, real = start(), Path.replace
    assert other.ask("acquire", "another", "b") == "True"
    overtaken: list[bool] = []

    def replace(path: Path, target: Path) -> Path:
        if path.stem == digest("k") and not overtaken:
            clean(folder, "mutex")
            overtaken.append(other.tell("acquire", "k", "b", 0).has_answered(0.5))
            assert (folder / "mutex").exists(), "the fault bites"
        return real(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    assert locks.acquire_lock("k", "a", 0)
    assert overtaken == [False]
    assert other.answer() == "False"
    locks.release_lock("k", "a")


_FORKS_AND_DIES = """
import os, signal, sys
from pathlib import Path
from typing import Any
from kapstan.locks.own_files import Mutex

def fork():
    if (child := os.fork()) == 0:
        signal.pause()
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

Mutex.of(Path(sys.argv[1])).alone(fork, 1)
"""


def test_a_process_that_forked_and_died_in_a_change_leaves_it_to_nobody(
    locks: FileSystemLockManager, folder: Path
) -> None:
    """The lock of a folder is a forked process', too, until it closes it."""
    died = subprocess.Popen([sys.executable, "-c", _FORKS_AND_DIES, str(folder)], stdout=subprocess.PIPE)
    with died:
        assert died.stdout is not None
        child = int(died.stdout.readline())
        try:
            died.wait()
            assert locks.acquire_lock("k", "a", 0)
        finally:
            os.kill(child, signal.SIGKILL)
    locks.release_lock("k", "a")


_IN_TURN = """
import fcntl, os, sys, time
handle = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(handle, fcntl.LOCK_EX)
print("in a change", flush=True)
for _ in range(30):
    time.sleep(0.05)
    os.utime(handle)
"""


def test_whoever_waits_for_many_that_make_changes_in_turn_does_not_give_up(
    locks: FileSystemLockManager, folder: Path
) -> None:
    """None of them was stopped in the middle; they only came first each time."""
    assert not locks.is_locked("k")
    with subprocess.Popen(
        [sys.executable, "-c", _IN_TURN, str(folder / "mutex")], stdout=subprocess.PIPE, cwd=REPOSITORY
    ) as others:
        assert others.stdout is not None
        assert others.stdout.readline() == b"in a change\n"
        began = time.monotonic()
        assert Mutex.of(folder).alone(lambda: "mine", 0.5) == "mine"
        assert time.monotonic() - began > 0.5, "the fault bites"


_TRY = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"


def test_a_mutex_that_cannot_be_made_again_gives_up_no_lock_of_another_file(
    locks: FileSystemLockManager, folder: Path, tmp_path: Path
) -> None:
    """Its number is the next file's that the user opens."""
    assert not locks.is_locked("k")
    number = Mutex.of(folder)._file.handle
    clean(folder, "mutex")
    (folder / "mutex").mkdir()
    for _ in range(2):
        with pytest.raises(LockUnavailable, match="Is a directory"):
            locks.acquire_lock("k", "a", 0)
        if not (tmp_path / "mine").exists():
            mine = os.open(tmp_path / "mine", os.O_RDWR | os.O_CREAT)
            assert mine == number, "the fault bites"
            fcntl.lockf(mine, fcntl.LOCK_EX)
    done = subprocess.run([sys.executable, "-c", _TRY, str(tmp_path / "mine")], check=False, capture_output=True)
    assert b"BlockingIOError" in done.stderr
    os.close(mine)
    (folder / "mutex").rmdir()
    assert locks.acquire_lock("k", "a", 0)
    locks.release_lock("k", "a")


def test_a_mutex_that_is_removed_while_it_is_held_lets_no_change_pass(
    locks: FileSystemLockManager, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has a new one by then: the change is made anew, under that."""
    assert not locks.is_locked("k")
    removed: list[int] = []
    real = Mutex.check

    def check(mutex: Mutex) -> None:
        if not removed:
            removed.append((folder / "mutex").stat().st_ino)
            (folder / "mutex").rename(folder / "old")  # so that its number is not given again
        real(mutex)

    monkeypatch.setattr(Mutex, "check", check)
    assert locks.acquire_lock("k", "a", 0)
    assert (folder / "mutex").stat().st_ino not in removed
    locks.release_lock("k", "a")


@pytest.mark.usefixtures("lease")
def test_a_holder_whose_files_were_removed_makes_them_again_and_is_not_robbed(
    locks: FileSystemLockManager, folder: Path, start: Callable[[], Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAPSTAN_LEASE_SECONDS", "20")
    backend.use(None)
    holder = start()
    assert holder.ask("acquire", "k", "a") == "True"
    clean(folder, "clients/*", "mutex", "tokens")
    assert not locks.acquire_lock("k", "b", 0)
    until(lambda: len(list((folder / "clients").glob("*.pipe"))) == 2)  # its own again, and those of this process
    assert not locks.acquire_lock("k", "b", 0.1)
    assert int(holder.ask("guard", "k", "a")) > 0
    assert holder.ask("release", "k", "a") == "None"
    assert locks.acquire_lock("k", "b", 0)
    locks.release_lock("k", "b")


@pytest.mark.usefixtures("lease")
def test_a_holder_that_died_after_its_files_were_removed_is_outlived_by_a_lease(
    locks: FileSystemLockManager, folder: Path, start: Callable[[], Program]
) -> None:
    holder = start()
    assert holder.ask("acquire", "k", "a") == "True"
    clean(folder, "clients/*")
    holder.kill()
    began = time.monotonic()
    assert locks.acquire_lock("k", "b", 60)
    assert time.monotonic() - began > 1.8
    locks.release_lock("k", "b")


def test_a_folder_that_was_removed_has_lost_its_locks_and_their_holders_are_told(
    locks: FileSystemLockManager, folder: Path, start: Callable[[], Program]
) -> None:
    other = start()
    assert locks.acquire_lock("k", "a")
    shutil.rmtree(folder)
    assert other.ask("acquire", "k", "b") == "True"
    with pytest.raises(LockLost):
        locks.guard_lock("k", "a")
    with pytest.raises(LockLost):
        locks.release_lock("k", "a")
    assert other.ask("release", "k", "b") == "None"


def test_files_in_use_are_never_old(
    locks: FileSystemLockManager, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cleaners remove what nobody has touched for ten days; a lock may be held for longer."""
    monkeypatch.setattr(files, "_LOOK", 0.05)
    monkeypatch.setattr(files, "_FRESH", 0.05)
    assert locks.acquire_lock("k", "a")
    for path in folder.rglob("*"):
        os.utime(path, (1e9, 1e9))
    until(lambda: all(path.stat().st_mtime > 1e9 + 1 for path in folder.rglob("*")))
    locks.release_lock("k", "a")


DAMAGED = [
    "",
    "{",
    "null",
    "[]",
    '{"v": 1}',
    '{"v": 2}',
    '{"v": 1, "key": "k", "hold": {"x": 1}, "line": [], "looks": []}',
]


@pytest.mark.parametrize("text", [*(each.encode() for each in DAMAGED), b"\xff\xfe"])
def test_a_file_that_cannot_be_read_blocks_its_own_key_only(
    locks: FileSystemLockManager, folder: Path, start: Callable[[], Program], text: bytes
) -> None:
    """Whoever held it may hold it still, so nobody else gets it; a process that comes or dies trips over it no more."""
    assert locks.acquire_lock("k", "a")
    (folder / "keys" / digest("k")).write_bytes(text)
    other = start()
    assert other.ask("acquire", "another", "b") == "True"
    other.kill()
    assert locks.acquire_lock("another", "c", 20)
    locks.release_lock("another", "c")
    for call in (lambda: locks.acquire_lock("k", "b", 0), lambda: locks.guard_lock("k", "a")):
        with pytest.raises(LockUnreadable, match="Remove the file when nobody does"):
            call()
    with pytest.raises(LockUnreadable):
        locks.release_lock("k", "a")
    assert locks.acquire_lock("a third", "c", 0)  # what could not be given back holds up nobody
    locks.release_lock("a third", "c")


def test_a_file_that_a_power_cut_left_goes_with_the_first_process_that_comes(
    locks: FileSystemLockManager, folder: Path
) -> None:
    assert not locks.is_locked("k")
    backend.use(None)
    (folder / "keys" / digest("k")).write_text("")
    assert locks.acquire_lock("k", "a", 0)
    locks.release_lock("k", "a")


_IN_A_CHANGE = """
import fcntl, os, sys, time
handle = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(handle, fcntl.LOCK_EX)
print("in a change", flush=True)
time.sleep(120)
"""


def test_a_process_that_was_stopped_in_a_change_holds_up_nobody_for_ever(
    locks: FileSystemLockManager, folder: Path
) -> None:
    """They waited for it without an end, whatever their timeout was."""
    assert not locks.is_locked("k")
    stopped = subprocess.Popen(
        [sys.executable, "-c", _IN_A_CHANGE, str(folder / "mutex")], stdout=subprocess.PIPE, cwd=REPOSITORY
    )
    with stopped:
        try:
            assert stopped.stdout is not None
            assert stopped.stdout.readline() == b"in a change\n"
            stopped.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            with pytest.raises(LockUnavailable, match="in the middle of a change"):
                locks.acquire_lock("k", "a", 0.5)
            assert time.monotonic() - began < 15
        finally:
            stopped.kill()
    assert locks.acquire_lock("k", "a", 0)
    locks.release_lock("k", "a")


def test_a_pipe_that_cannot_be_opened_again_is_not_tried_without_a_pause(
    locks: FileSystemLockManager, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's code has closed it, and the folder is not what it was: a thread took a whole processor."""
    looks: list[float] = []
    real = files.FileTable._look_after_files
    monkeypatch.setattr(
        files.FileTable, "_look_after_files", lambda table: (looks.append(time.monotonic()), real(table))
    )
    assert locks.acquire_lock("k", "a")
    clean(folder, "mutex")
    (folder / "mutex").mkdir()
    table: Any = locks._locks()
    os.write(table._table._pipe.handle, b"\n")
    os.close(table._table._pipe.handle)
    until(lambda: len(looks) >= 4)
    assert looks[3] - looks[0] > 1.0
    (folder / "mutex").rmdir()
    until(lambda: table._table._pipe.is_open)
    locks.release_lock("k", "a")


@pytest.mark.parametrize("step", ["ftruncate", "pwrite"])
def test_a_first_use_that_failed_leaves_no_client_that_nobody_sees(
    locks: FileSystemLockManager, folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A full disk: the next use had locks in the name of a client without a file, and was robbed after a lease."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, step, full)
        with pytest.raises(LockUnavailable, match="No space left"):
            locks.acquire_lock("k", "a", 0)
    assert locks.acquire_lock("k", "a", 0)
    used: Any = locks._locks()
    assert {path.name for path in (folder / "clients").iterdir()} == {used._client, f"{used._client}.pipe"}
    shown = folder / "clients" / used._client
    done = subprocess.run([sys.executable, "-c", _TRY, str(shown)], check=False, capture_output=True)
    said = subprocess.check_output(["cat", shown])  # to read it here, and close it, would give up its lock
    assert f'"pid": {os.getpid()}'.encode() in said
    assert b"BlockingIOError" in done.stderr, "others see that it lives"
    locks.release_lock("k", "a")
