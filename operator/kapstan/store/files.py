"""What the local adapters ask of the file system: short locks, durable folders, errors that say what to do.

Locks are ``flock`` on files of their own, held for microseconds and never across user code.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, BinaryIO

from kapstan.errors import StoreRefused, StoreUnavailable


@contextlib.contextmanager
def refusing(path: Path) -> Generator[None]:
    """Turn what the file system refuses into StoreRefused, with the path."""
    try:
        yield
    except OSError as error:
        raise StoreRefused(
            f"the local store cannot use {error.filename or path}: {error.strerror or error}. "
            "KAPSTAN_HOME, or a result storage, must be a folder of yours on a local disk with room"
        ) from error


class Guarded:
    """A binary file whose errors are ``StoreRefused``."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path

    def write(self, data: Any, /) -> int:
        with refusing(self._path):
            return self._file.write(data)

    def read(self, size: int = -1, /) -> bytes:
        with refusing(self._path):
            return self._file.read(size)

    def readinto(self, buffer: Any, /) -> int:
        file: Any = self._file
        with refusing(self._path):
            return file.readinto(buffer)

    def readline(self) -> bytes:
        with refusing(self._path):
            return self._file.readline()


def make_folder(folder: Path, *, fsync: bool = False) -> None:
    """``folder`` and what is missing above it, for their owner only; ``fsync``: the names of new ones are durable."""
    for path in reversed((folder, *folder.parents)):
        if not path.is_dir():
            path.mkdir(mode=0o700, exist_ok=True)
            if fsync:
                sync_folder(path.parent)


def take_lock(descriptor: int, path: Path, deadline: float) -> None:
    """flock ``descriptor`` exclusively; freed when it is closed, or with ``LOCK_UN``.

    Raises:
        StoreUnavailable: another process has held it for ``deadline`` seconds, as one that was stopped may.
    """
    end = 0.0
    pause = 0.0005
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            end = end or time.monotonic() + deadline
            if time.monotonic() > end:
                raise StoreUnavailable(f"another process has held {path} for {deadline:g} s; is one stopped?") from None
            time.sleep(pause)
            pause = min(2 * pause, 0.005)


@contextlib.contextmanager
def held(path: Path, deadline: float) -> Generator[int]:
    """Hold the lock file ``path``, made where there is none."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        take_lock(descriptor, path, deadline)
        yield descriptor
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
