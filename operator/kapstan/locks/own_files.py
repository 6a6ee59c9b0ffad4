"""Files of a folder that a process keeps open for as long as it lives, though others may remove them: a cleaner of
``/tmp``, code that closes every file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from kapstan.errors import ConfigurationError

T = TypeVar("T")
_FLAGS = {
    "file": os.O_RDWR | os.O_CREAT,
    "pipe": os.O_RDWR | os.O_NONBLOCK,
    "folder": os.O_RDONLY | os.O_DIRECTORY,
}


class OwnFile:
    """A file that this process keeps open, made if it is not there.

    Args:
        kind: a ``pipe`` is a named one, open for both, so that it never ends for want of a writer; a ``folder`` is
            there already.
    """

    def __init__(self, path: Path, kind: Literal["file", "pipe", "folder"] = "file") -> None:
        self._path = path
        self._kind = kind
        self._open()

    def _open(self) -> None:
        if self._kind == "pipe":
            with contextlib.suppress(FileExistsError):
                os.mkfifo(self._path, 0o600)
        self.handle = os.open(self._path, _FLAGS[self._kind] | os.O_CLOEXEC, 0o600)
        self._identity = os.fstat(self.handle)[1:3]

    @property
    def is_open(self) -> bool:
        """Its number may be another file's by now."""
        with contextlib.suppress(OSError):
            return os.fstat(self.handle)[1:3] == self._identity
        return False

    @property
    def is_there(self) -> bool:
        """Whether others find it under its name."""
        with contextlib.suppress(OSError):
            return os.stat(self._path)[1:3] == self._identity
        return False

    @property
    def touched(self) -> int:
        """When; whoever reads the same number twice knows that nobody did in between."""
        return os.fstat(self.handle).st_mtime_ns

    def touch(self) -> None:
        with contextlib.suppress(OSError):
            os.utime(self.handle)

    def keep_open(self) -> bool:
        """Whether it had to be opened, or made, anew."""
        if self.is_open:
            if self.is_there:
                return False
            self.close()
        self._open()
        return True

    def close(self) -> None:
        if self.is_open:
            handle, self.handle = self.handle, -1  # first: the number may be another file's at once
            os.close(handle)


class Displaced(Exception):
    """The mutex was removed while it was held: somebody else may hold another one. The change is made anew."""


class Mutex:
    """The kernel's lock of ``mutex``, one per folder and process: a process' own threads are kept apart by ours, since
    to the kernel they are one. Whoever has it looks whether others find the same file under that name. It may be
    removed right after that, and another one made; so the folder of the keys is locked, too, which goes with them.

    Attributes:
        mine: clients of this process.
        about: what others are told of it.
    """

    _known: ClassVar[dict[Path, Mutex]] = {}
    _making = threading.Lock()

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = OwnFile(folder / "mutex")
        self._keys = OwnFile(folder / "keys", "folder")
        self._lock = threading.Lock()
        self.mine: set[str] = set()
        self.about = ""

    @classmethod
    def of(cls, folder: Path) -> Mutex:
        """Raises:
        ConfigurationError: the folder cannot be made or used.
        """
        try:
            _make(folder)
            folder = folder.resolve()
            with cls._making:
                if folder not in cls._known:
                    cls._known[folder] = cls(folder)
                return cls._known[folder]
        except OSError as error:
            raise ConfigurationError(
                f"lock_files_directory={str(folder)!r} cannot be used ({error.strerror}): give a folder of yours"
            ) from None

    @classmethod
    def after_fork(cls) -> None:
        """A forked process has no lock of the kernel's, and no clients. The files are opened anew. The folder is
        closed: the parent's lock of it would be this process', too."""
        for each in cls._known.values():
            each._keys.close()
        cls._inherited += cls._known.values()
        cls._known = {}
        cls._making = threading.Lock()

    _inherited: ClassVar[list[Mutex]] = []

    def alone(self, act: Callable[[], T], patience: float) -> T:
        """``act()`` while no other process or thread makes a change.

        Raises:
            TimeoutError: none of the others came forward for ``patience`` seconds: one was stopped in the middle.
            Displaced: see there.
        """
        until, pause, seen = time.monotonic() + patience, 0.0001, None
        while True:
            with self._lock:
                try:
                    if self._take():
                        return act()
                    turn = self._file.touched
                finally:  # whatever interrupted this
                    self._let_go()
            now = time.monotonic()
            if turn != seen:  # many change it in turn: that is no reason to give up
                until, seen = now + patience, turn
            if now > until:
                raise TimeoutError(
                    f"another process has been in the middle of a change for {patience:g} s; it may have been stopped "
                    "(SIGSTOP)"
                )
            time.sleep(pause)
            pause = min(0.005, pause * 2)

    def check(self) -> None:
        """Raises:
        Displaced: this is no longer the file that others find.
        """
        if not self._file.is_there:
            raise Displaced

    @property
    def is_there(self) -> bool:
        return self._file.is_there

    def _take(self) -> bool:
        """Whether it is this process' now, and the file that others find."""
        _make(self._folder)
        self._file.keep_open()
        self._keys.keep_open()
        try:
            fcntl.lockf(self._file.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            return False
        try:
            fcntl.flock(self._keys.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system of several machines: it locks no folder
            pass
        self._file.touch()
        return self._file.is_there

    def _let_go(self) -> None:
        if self._keys.is_open:
            with contextlib.suppress(OSError):
                fcntl.flock(self._keys.handle, fcntl.LOCK_UN)
        if self._file.is_open:  # else its number is another file's
            fcntl.lockf(self._file.handle, fcntl.LOCK_UN)


def _make(folder: Path) -> None:
    for part in (folder, folder / "clients", folder / "keys"):
        if not part.is_dir():
            part.mkdir(mode=0o700, parents=True, exist_ok=True)


os.register_at_fork(after_in_child=Mutex.after_fork)
