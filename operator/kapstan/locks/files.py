"""Locks of one machine: a file for each key that is held or waited for, in a folder that its users share.

Every process holds the kernel's lock of a file of its own under ``clients``, from its first use to its end. The kernel
gives that up when the process ends, however it ends, and for no other reason: not when it is stopped, or stuck. So a
holder is never robbed while it lives, and no lease runs out. (POSIX locks: a forked process does not inherit them.)
Each change is made by one process at a time, under the kernel's lock of ``mutex``, and is one rename. A process is rung
through a named pipe. Needs a file system of this machine; on one that machines share, waiters may look late.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

from kapstan.errors import ConfigurationError, LockUnavailable
from kapstan.locks.processes import said_for_people
from kapstan.locks.state import Change, KeyState, digest
from kapstan.ports import LockHolder, Place, Wait

T = TypeVar("T")


class FileTable:
    """See ``ports.LockTable``.

    Args:
        folder: made if it is not there; all that use it share its locks.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clients = folder / "clients"
        self._keys = folder / "keys"
        self._mutex = _Mutex.of(folder)
        self._client = ""
        self._alive: OwnFile | None = None
        self._pipe: int | None = None
        self._gone: set[str] = set()  # clients that were found to have ended, with the mutex held
        self._ear: threading.Thread | None = None
        self._ring: Callable[[str | None], bool] | None = None

    def begin(self, client: str, about: str, ring: Callable[[str | None], bool]) -> None:
        with self._talking(), self._mutex.held():
            self._alive = OwnFile(self._clients / client)
            fcntl.lockf(self._alive.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(self._alive.handle, about.encode())
            os.mkfifo(self._pipe_of(client), 0o600)
            # Open for both, so that it never ends for want of a writer.
            self._pipe = os.open(self._pipe_of(client), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            self._mutex.mine.add(client)
            self._mutex.about = about
            self._sweep()
        self._client, self._ring = client, ring
        self._ear = threading.Thread(target=self._listen, args=(self._pipe,), name="kapstan-locks", daemon=True)
        self._ear.start()

    def ask(
        self,
        wait: Wait,
        stay: bool,
        silent: Sequence[tuple[str, str]],  # noqa: ARG002
        patience: float | None = None,  # noqa: ARG002
    ) -> Place:
        place = self._change(wait.key, lambda change, _: change.ask(wait, stay))
        if place.token is not None:
            return place
        return place._replace(about=self._about(place.client), beat="the kernel holds its lock")

    def give_up(self, wait: Wait, patience: float | None = None) -> None:  # noqa: ARG002
        self._change(wait.key, lambda change, _: change.give_up(wait))

    def release(self, key: str, holder: str, token: int | None) -> bool:
        return self._change(key, lambda change, _: change.release(holder, token))

    def holder(self, key: str) -> LockHolder | None:
        state = self._change(key, lambda _, state: state)
        if (hold := state.hold) is None:
            return None
        return LockHolder(
            hold.holder, hold.token, hold.since, said_for_people(self._about(hold.client)), len(state.line)
        )

    def end_client(self, client: str) -> None:
        with self._talking(), self._mutex.held():
            if self._ended(client):
                self._bury([client])

    def close(self) -> None:
        if self._alive is None or self._pipe is None or self._ear is None:
            return
        os.write(self._pipe, b"\n")  # an empty line: the end
        self._ear.join()
        with self._talking(), self._mutex.held():
            self._alive.close()
            self._mutex.mine.discard(self._client)
            self._bury([self._client])
        os.close(self._pipe)
        self._alive = self._pipe = None

    # ------------------------------------------------------------------ one change

    def _change(self, key: str, act: Callable[[Change, KeyState], T]) -> T:
        with self._talking(), self._mutex.held():
            self._stay_alive()
            self._gone = set[str]()
            answer, rings = self._changed(self._keys / digest(key), key, act)
            if self._gone:
                self._bury(sorted(self._gone))
        self._send(rings)
        return answer

    def _changed(self, path: Path, key: str, act: Callable[[Change, KeyState], T]) -> tuple[T, list[tuple[str, str]]]:
        try:
            before = path.read_text()
            state = KeyState.from_text(before)
        except FileNotFoundError:
            before, state = "", KeyState(key)
        except ValueError as error:
            raise LockUnavailable(
                f"The lock file {path} cannot be read ({error}); remove it if nobody uses it"
            ) from None
        change = Change(state, time.monotonic(), time.time(), self._mint, self._ended)
        answer = act(change, state)
        if state.empty:
            if before:
                path.unlink()
        elif (after := state.to_text()) != before:
            _write(path, after)
        return answer, change.rings

    def _mint(self) -> int:
        """Counted on in a file before it is used; the clock helps where a power cut took the file."""
        path, now = self._folder / "tokens", time.time_ns() // 1000
        try:
            token = max(int(path.read_text()) + 1, now)
        except (FileNotFoundError, ValueError):
            token = now
        _write(path, str(token))
        return token

    # ------------------------------------------------------------------ clients

    def _stay_alive(self) -> None:
        """Code of the user's that closes every file has taken the lock of this client's file with it: take it anew. If
        somebody saw that, what this client held is theirs, and its holders are told."""
        if self._alive is not None and self._alive.keep_open():
            fcntl.lockf(self._alive.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._alive.handle, 0)
            os.pwrite(self._alive.handle, self._mutex.about.encode(), 0)

    def _ended(self, client: str) -> bool:
        """Called with the mutex held. Never opens a file of this process: closing it would give up its lock."""
        if client in self._mutex.mine:
            return False
        try:
            handle = os.open(self._clients / client, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        finally:
            os.close(handle)
        self._gone.add(client)
        return True

    def _about(self, client: str) -> str:
        if client in self._mutex.mine:
            return self._mutex.about
        try:
            return (self._clients / client).read_text()
        except OSError:
            return ""

    def _sweep(self) -> None:
        """Take away what processes left that ended with nobody looking."""
        names = [path.name for path in self._clients.iterdir() if not path.name.endswith(".pipe")]
        gone = [name for name in names if self._ended(name)]
        if gone:
            self._bury(gone)

    def _bury(self, gone: list[str]) -> None:
        """Called with the mutex held: end clients that have no lock of their file any more."""
        rings: list[tuple[str, str]] = []
        for path in list(self._keys.iterdir()):
            if path.suffix:  # half of a change, of a process that was killed
                path.unlink()
            elif any(client in path.read_text() for client in gone):
                _, some = self._changed(path, "", lambda change, _: [change.end_client(each) for each in gone])
                rings += some
        for client in gone:
            (self._clients / client).unlink(missing_ok=True)
            self._pipe_of(client).unlink(missing_ok=True)
        self._send(rings)

    # ------------------------------------------------------------------ bells

    def _pipe_of(self, client: str) -> Path:
        return self._clients / f"{client}.pipe"

    def _send(self, rings: list[tuple[str, str]]) -> None:
        """A pipe that is full or has no reader is left alone: who waits there looks again by itself."""
        for client, number in rings:
            if client == self._client and self._ring is not None:
                self._ring(number)
                continue
            with contextlib.suppress(OSError):
                pipe = os.open(self._pipe_of(client), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    os.write(pipe, f"{number}\n".encode())
                finally:
                    os.close(pipe)

    def _listen(self, pipe: int) -> None:
        poll, rest = select.poll(), b""
        poll.register(pipe, select.POLLIN)
        while True:
            poll.poll()
            *lines, rest = (rest + os.read(pipe, 65536)).split(b"\n")
            for line in lines:
                if not line:
                    return
                if self._ring is not None:
                    self._ring(line.decode())

    @contextlib.contextmanager
    def _talking(self) -> Generator[None]:
        """What the file system refuses is said as what it means."""
        try:
            yield
        except OSError as error:
            raise LockUnavailable(f"The lock files in {self._folder} cannot be used: {error}") from error


class OwnFile:
    """A file that this process keeps open, made if it is not there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    def _open(self) -> None:
        self.handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._identity = os.fstat(self.handle)[1:3]

    def keep_open(self) -> bool:
        """Whether it had to be opened anew; its number may be another file's by now, which is left alone."""
        with contextlib.suppress(OSError):
            if os.fstat(self.handle)[1:3] == self._identity:
                return False
        self._open()
        return True

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if os.fstat(self.handle)[1:3] == self._identity:
                os.close(self.handle)


class _Mutex:
    """The kernel's lock of ``mutex``, one per folder and process: a process' own threads are kept apart by ours, since
    to the kernel they are one.

    Attributes:
        mine: clients of this process.
    """

    _known: ClassVar[dict[Path, _Mutex]] = {}
    _making = threading.Lock()

    def __init__(self, file: Path) -> None:
        self._file = OwnFile(file)
        self._lock = threading.Lock()
        self.mine: set[str] = set()
        self.about = ""

    @classmethod
    def of(cls, folder: Path) -> _Mutex:
        """Raises:
        ConfigurationError: the folder cannot be made or used.
        """
        try:
            for part in (folder, folder / "clients", folder / "keys"):
                part.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = folder.resolve()
            with cls._making:
                if folder not in cls._known:
                    cls._known[folder] = cls(folder / "mutex")
                return cls._known[folder]
        except OSError as error:
            raise ConfigurationError(
                f"lock_files_directory={str(folder)!r} cannot be used ({error.strerror}): give a folder of yours"
            ) from None

    @classmethod
    def after_fork(cls) -> None:
        """A forked process has no lock of the kernel's, and no clients. The files are opened anew."""
        cls._inherited += cls._known.values()
        cls._known = {}
        cls._making = threading.Lock()

    _inherited: ClassVar[list[_Mutex]] = []

    @contextlib.contextmanager
    def held(self) -> Generator[None]:
        with self._lock:
            self._file.keep_open()
            fcntl.lockf(self._file.handle, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._file.handle, fcntl.LOCK_UN)


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text)
    fresh.replace(path)


os.register_at_fork(after_in_child=_Mutex.after_fork)
