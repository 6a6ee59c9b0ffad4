"""``ports.RunLog`` in one file: the journal of a flow run on a laptop. Made by ``LocalStore.log``.

Records are frames, appended with one ``write`` under a short lock. The end of the file plays the part of the segment's
number: a writer whose end is not the file's end has been overtaken. The file is appended to and cut, never renamed or
replaced: a late writer would keep the old one, with a lock and a size that look right.

A log is *buried* by a file of its own beside it, ``<name>.grave``, written under the same lock; from then on the log
itself does not count and may be deleted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kapstan.errors import Fenced, StoreRefused, StoreUnsafe
from kapstan.store.files import make_folder, refusing, sync_folder, take_lock
from kapstan.store.framing import frame, frames, is_damaged, scan

LOG, GRAVE = ".log", ".grave"


class LocalLog:
    """One log; see ``ports.RunLog``.

    Args:
        fsync: whether an append returns only when it survives a power cut; without, it survives the process' death.
        deadline: seconds to wait for the lock.
    """

    def __init__(self, path: Path, *, fsync: bool, deadline: float) -> None:
        self._path = path
        self._fsync = fsync
        self._deadline = deadline
        self._descriptor = -1
        self._file = (0, 0)
        self._end = 0
        self._fenced = False
        self._doubtful = b""  # a write that a signal's exception interrupted; at _end, if it was made

    @property
    def _grave_path(self) -> Path:
        return self._path.with_name(self._path.name.removesuffix(LOG) + GRAVE)

    def read(self) -> list[bytes]:
        with refusing(self._path):
            try:
                data = self._path.read_bytes()
            except FileNotFoundError:
                data = b""
            return self._grave() or self._good(data)[0]  # in this order: the log goes after the grave has come

    def _grave(self) -> list[bytes]:
        """The grave; [] if the log is not buried, or whoever was to bury it died while he wrote."""
        try:
            return scan(self._grave_path.read_bytes()).bodies
        except FileNotFoundError:
            return []

    def open(
        self, opening: bytes, admit: Callable[[Sequence[bytes]], None] | None = None, *, attempt: int = 0
    ) -> list[bytes]:
        del attempt  # two openers never meet: each reads, is admitted and writes under the lock
        with refusing(self._path):
            if self._descriptor < 0:
                make_folder(self._path.parent, fsync=self._fsync)
                self._descriptor = self._opened(os.O_CREAT)
            with self._locked():
                self._reopen_if_gone()
                size = os.fstat(self._descriptor).st_size
                grave = self._grave()
                records, good = (grave, 0) if grave else self._good(_read(self._descriptor, 0, size))
                if admit is not None:
                    admit(records)
                if grave:
                    raise StoreRefused(f"the journal {self._path} was removed when its time was over; it cannot go on")
                if good < size:
                    os.ftruncate(self._descriptor, good)  # a torn tail would hide the next record
                self._end, self._fenced, self._doubtful = good, False, b""
                self._file = _identity(self._descriptor)
                self._write(frame(opening))
            self._sync()
            if self._fsync:
                sync_folder(self._path.parent)
        return records

    def append(self, records: Sequence[bytes]) -> None:
        if self._descriptor < 0:
            raise ValueError(f"the journal {self._path} is not open for writing")
        data = frames(records)
        try:
            self._append(data)
        except OSError as error:
            with refusing(self._path):
                if error.errno != errno.EBADF:
                    raise
                self._reopen()
                self._append(data)

    def _append(self, data: bytes) -> None:
        # By hand what ``_locked`` does elsewhere: this is on the way of every task call.
        take_lock(self._descriptor, self._path, self._deadline)
        try:
            now = os.fstat(self._descriptor)
            if (now.st_dev, now.st_ino) != self._file:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            if self._doubtful:
                self._settle()
                now = os.fstat(self._descriptor)
            self._fenced = self._fenced or now.st_size != self._end or not now.st_nlink
            if self._fenced:
                raise Fenced(f"another attempt has taken over the journal {self._path}")
            self._write(data)
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._sync()  # not under the lock, where a busy writer would keep the next one out

    def bury(self, grave: bytes, admit: Callable[[Sequence[bytes]], None]) -> None:
        with refusing(self._path), self._held() as descriptor:
            buried = self._grave()
            if buried or descriptor >= 0:
                size = 0 if descriptor < 0 else os.fstat(descriptor).st_size
                admit(buried or self._good(_read(descriptor, 0, size))[0])
            if buried or descriptor < 0:
                return
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            with os.fdopen(os.open(self._grave_path, flags, 0o600), "wb") as file:
                file.write(frame(grave))
                if self._fsync:
                    file.flush()
                    os.fsync(file.fileno())
            if self._fsync:
                sync_folder(self._path.parent)
            os.write(descriptor, frame(grave))  # another end than whoever wrote until now remembers: it is fenced

    def clear(self) -> dict[str, str]:
        with refusing(self._path), self._held():
            if not self._grave():
                raise ValueError(f"the journal {self._path} is not buried")
            try:
                self._path.unlink(missing_ok=True)
            except OSError as error:
                return {str(self._path): error.strerror or str(error)}
        return {}

    def remove(self) -> None:
        with refusing(self._path), self._held():
            self._path.unlink(missing_ok=True)
            self._grave_path.unlink(missing_ok=True)

    @contextmanager
    def _held(self) -> Generator[int]:
        """Hold the lock of the file that stands there now; -1: there is none, which nobody has locked."""
        while True:
            try:
                descriptor = self._opened(0)
            except FileNotFoundError:
                yield -1
                return
            try:
                take_lock(descriptor, self._path, self._deadline)
                if os.fstat(descriptor).st_nlink:
                    yield descriptor
                    return
            finally:
                os.close(descriptor)

    def _opened(self, flags: int) -> int:
        return os.open(self._path, flags | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def _reopen(self) -> None:
        """User code has closed our descriptor, as ``os.closerange`` does: go on with the same file.

        Raises:
            Fenced: that is gone.
        """
        with contextlib.suppress(FileNotFoundError):
            self._descriptor = self._opened(0)
            if _identity(self._descriptor) == self._file:
                return
        self._fenced = True
        raise Fenced(f"the journal {self._path} was removed")

    def _reopen_if_gone(self) -> None:
        """Take the file that stands there now, where the one that was opened was deleted before it was locked."""
        while not os.fstat(self._descriptor).st_nlink:
            os.close(self._descriptor)
            self._descriptor = -1
            self._descriptor = self._opened(os.O_CREAT)
            take_lock(self._descriptor, self._path, self._deadline)

    def close(self) -> None:
        if self._descriptor >= 0:
            # First forgotten, then closed: closed twice, the number may be another file's by then.
            descriptor, self._descriptor = self._descriptor, -1
            with contextlib.suppress(OSError):  # user code has closed it, and may have opened a file of its own since
                if _identity(descriptor) == self._file:
                    os.close(descriptor)

    def _settle(self) -> None:
        """Keep the interrupted write if it was made, cut it off if it was made in part."""
        size = os.fstat(self._descriptor).st_size
        tail = _read(self._descriptor, self._end, size)
        if tail == self._doubtful:
            self._end = size
        elif self._doubtful.startswith(tail):
            os.ftruncate(self._descriptor, self._end)
        self._doubtful = b""

    def _write(self, data: bytes) -> None:
        self._doubtful = data
        try:
            written = os.write(self._descriptor, data)
            while written < len(data):  # a full disk: the next write says so
                written += os.write(self._descriptor, data[written:])
        except OSError:
            os.ftruncate(self._descriptor, self._end)
            self._doubtful = b""
            raise
        self._end, self._doubtful = self._end + len(data), b""

    def _sync(self) -> None:
        if self._fsync:
            os.fsync(self._descriptor)

    def _good(self, data: bytes) -> tuple[list[bytes], int]:
        """The records, and where the good part ends.

        Raises:
            StoreUnsafe: good records follow a bad one, which no crash of a writer leaves behind.
        """
        records, end = scan(data)
        if end < len(data) and is_damaged(data, end):
            raise StoreUnsafe(
                f"the journal {self._path} is damaged at byte {end}, and records follow. Nothing was changed; do not "
                "resume this run"
            )
        return records, end

    @contextmanager
    def _locked(self) -> Generator[None]:
        take_lock(self._descriptor, self._path, self._deadline)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)


def _identity(descriptor: int) -> tuple[int, int]:
    """Device and number of a file."""
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _read(descriptor: int, position: int, end: int) -> bytes:
    parts: list[bytes] = []
    while position < end and (part := os.pread(descriptor, end - position, position)):
        parts.append(part)
        position += len(part)
    return b"".join(parts)
