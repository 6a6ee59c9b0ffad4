"""Files of locks that somebody removes, damages or stops a process with: nobody is robbed, and no other key suffers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

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
