"""Locks of one machine: a file for each key that is held or waited for, in a folder that its users share.

Every process holds the kernel's lock of a file of its own under ``clients``, from its first use to its end. The kernel
gives that up when the process ends, however it ends, and for no other reason: not when it is stopped, or stuck. So a
holder is never robbed while it lives, and no lease runs out. (POSIX locks: a forked process does not inherit them.)
Each change is made by one process at a time, under the kernel's lock of ``mutex``, and is one rename. A process is rung
through a named pipe. Needs a file system of this machine; on one that machines share, waiters may look late.

What somebody else removes is made again: the mutex and what shows that a process lives at once or within some seconds,
in which nobody is robbed; the file of a key is lost with its lock. One that cannot be read blocks that key alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

from kapstan.errors import LockUnavailable, LockUnreadable
from kapstan.locks.own_files import Displaced, Mutex, OwnFile
from kapstan.locks.processes import said_for_people
from kapstan.locks.state import Change, KeyState, digest
from kapstan.ports import LockHolder, Place, Wait

T = TypeVar("T")
_LOOK = 5.0  # seconds; how often a process looks whether its files are still there
_LOOK_SOON = 0.5  # while one of them cannot be opened again
_FRESH = 3600.0  # seconds; how often it touches them, so that nobody takes them for old
_GONE = "gone"  # the beat of a client whose file was removed


class FileTable:
    """See ``ports.LockTable``.

    Args:
        folder: made if it is not there; all that use it share its locks.
        patience: seconds to wait for others that make a change.
    """

    def __init__(self, folder: Path, patience: float) -> None:
        self._folder = folder
        self._patience = patience
        self._clients = folder / "clients"
        self._keys = folder / "keys"
        self._mutex = Mutex.of(folder)
        self._client = ""
        self._alive: OwnFile | None = None
        self._pipe: OwnFile | None = None
        self._shown = False  # the whole of it: its lock, and what others are told
        self._silent: set[str] = set()  # clients that made no file again for a lease
        self._gone: set[str] = set()  # clients that were found to have ended, with the mutex held
        self._ear: threading.Thread | None = None
        self._closed = False
        self._ring: Callable[[str | None], bool] | None = None

    def begin(self, client: str, about: str, ring: Callable[[str | None], bool], patience: float | None = None) -> None:
        def appear() -> None:
            self._leave()  # of a first use that failed
            self._mutex.about = about
            self._sweep()
            self._client, self._ring = client, ring
            self._stay_alive()

        self._alone(appear, patience)
        ear = threading.Thread(target=self._listen, name="kapstan-locks", daemon=True)
        try:
            ear.start()
        except BaseException:
            self._alone(self._leave)
            raise
        self._ear = ear

    def ask(self, wait: Wait, stay: bool, silent: Sequence[tuple[str, str]], patience: float | None = None) -> Place:
        gone = [client for client, beat in silent if beat == _GONE]
        place = self._change(wait.key, lambda change, _: change.ask(wait, stay), patience, gone)
        if place.token is not None:
            return place
        there = place.client in self._mutex.mine or os.path.exists(self._clients / place.client)
        beat = "the kernel holds its lock" if there else _GONE
        return place._replace(about=self._about(place.client), beat=beat)

    def give_up(self, wait: Wait, patience: float | None = None) -> None:
        self._change(wait.key, lambda change, _: change.give_up(wait), patience)

    def release(self, key: str, holder: str, token: int | None, patience: float | None = None) -> bool:
        return self._change(key, lambda change, _: change.release(holder, token), patience)

    def holder(self, key: str) -> LockHolder | None:
        state = self._change(key, lambda _, state: state)
        if (hold := state.hold) is None:
            return None
        return LockHolder(
            hold.holder, hold.token, hold.since, said_for_people(self._about(hold.client)), len(state.line)
        )

    def end_client(self, client: str) -> None:
        self._alone(lambda: self._bury([client]) if self._ended(client) else None)

    def close(self) -> None:
        if self._pipe is None or self._ear is None:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            if self._pipe.is_open:
                os.write(self._pipe.handle, b"\n")
        self._ear.join()
        with contextlib.suppress(LockUnavailable):
            self._alone(self._leave)

    # ------------------------------------------------------------------ one change

    def _change(
        self,
        key: str,
        act: Callable[[Change, KeyState], T],
        patience: float | None = None,
        silent: Collection[str] = (),
    ) -> T:
        def change() -> tuple[T, list[tuple[str, str]]]:
            self._stay_alive()
            self._gone, self._silent = set[str](), set(silent)
            changed = self._changed(self._keys / digest(key), key, act)
            if self._gone:
                self._bury(sorted(self._gone))
            return changed

        answer, rings = self._alone(change, patience)
        self._send(rings)
        return answer

    def _changed(self, path: Path, key: str, act: Callable[[Change, KeyState], T]) -> tuple[T, list[tuple[str, str]]]:
        try:
            before = path.read_text()
            state = KeyState.from_text(before)
        except FileNotFoundError:
            before, state = "", KeyState(key)
        except (ValueError, IsADirectoryError) as error:
            raise LockUnreadable(
                f"The file of this lock, {path}, cannot be read ({error}): whoever held it may hold it still. Remove "
                "the file when nobody does; it is removed when a process comes and no other one uses these locks"
            ) from None
        change = Change(state, time.monotonic(), time.time(), self._mint, self._ended)
        answer = act(change, state)
        if state.empty:
            if before:
                self._mutex.check()
                path.unlink()
        elif (after := state.to_text()) != before:
            self._write(path, after)
        return answer, change.rings

    def _write(self, path: Path, text: str) -> None:
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text(text)
        self._mutex.check()
        fresh.replace(path)

    def _mint(self) -> int:
        """Counted on in a file before it is used; the clock helps where a power cut took the file."""
        path, now = self._folder / "tokens", time.time_ns() // 1000
        try:
            token = max(int(path.read_text()) + 1, now)
        except (FileNotFoundError, ValueError):
            token = now
        self._write(path, str(token))
        return token

    # ------------------------------------------------------------------ clients

    def _stay_alive(self) -> None:
        """Code of the user's that closes every file has taken the lock of this client's file with it, and a cleaner the
        file itself: take it anew. If somebody saw that, what this client held is theirs, and its holders are told."""
        if not self._client or self._closed:
            return
        if self._alive is None or self._pipe is None:
            self._alive = OwnFile(self._clients / self._client)
            self._pipe = OwnFile(self._pipe_of(self._client), "pipe")
            self._mutex.mine.add(self._client)
        elif self._shown and self._alive.is_open and self._alive.is_there:
            self._pipe.keep_open()
            return
        self._shown = False
        self._pipe.keep_open()
        self._alive.keep_open()
        fcntl.lockf(self._alive.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(self._alive.handle, 0)
        os.pwrite(self._alive.handle, self._mutex.about.encode(), 0)
        self._shown = True

    def _leave(self) -> None:
        """Called with the mutex held: this client ends."""
        if self._alive is not None:
            self._alive.close()
            self._mutex.mine.discard(self._client)
            self._bury([self._client])
        if self._pipe is not None:
            self._pipe.close()
        self._alive = self._pipe = None

    def _ended(self, client: str) -> bool:
        """Called with the mutex held. Never opens a file of this process: closing it would give up its lock. One that
        is not there was removed by somebody else; its process makes it again, if it lives."""
        if client in self._mutex.mine:
            return False
        try:
            handle = os.open(self._clients / client, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            if client in self._silent:
                self._gone.add(client)
            return client in self._silent
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
        """Take away what processes left that ended with nobody looking. When none is left, no lock is held: not in a
        file that cannot be read, either, as a power cut leaves it."""
        names = [path.name for path in self._clients.iterdir() if not path.name.endswith(".pipe")]
        gone = [name for name in names if self._ended(name)]
        if gone:
            self._bury(gone)
        if len(gone) == len(names) and not self._mutex.mine:
            for path in self._keys.iterdir():
                with contextlib.suppress(OSError):
                    if _text(path) is None:
                        path.unlink()

    def _bury(self, gone: list[str]) -> None:
        """Called with the mutex held: end clients that have no lock of their file any more."""
        rings: list[tuple[str, str]] = []
        for path in list(self._keys.iterdir()):
            if path.suffix:  # half of a change, of a process that was killed
                path.unlink(missing_ok=True)
                continue
            with contextlib.suppress(FileNotFoundError, LockUnreadable, UnicodeDecodeError):
                text = path.read_text()
                if any(client in text for client in gone):
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

    def _listen(self) -> None:
        rest, fresh = b"", time.monotonic() + _FRESH
        while not self._closed and self._pipe is not None:
            poll, open_now = select.poll(), self._pipe.is_open
            with contextlib.suppress(ValueError):  # closed just now
                if open_now:
                    poll.register(self._pipe.handle, select.POLLIN)
            poll.poll(1000 * (_LOOK if open_now else _LOOK_SOON))
            said = b""
            with contextlib.suppress(OSError):
                if self._pipe.is_open:
                    said = os.read(self._pipe.handle, 65536)
            *lines, rest = (rest + said).split(b"\n")
            for line in lines:
                if line and self._ring is not None:
                    self._ring(line.decode(errors="replace"))
            if not said:
                with contextlib.suppress(LockUnavailable):
                    self._look_after_files()
                if time.monotonic() > fresh:
                    fresh = time.monotonic() + _FRESH
                    self._freshen()

    def _look_after_files(self) -> None:
        """Make again what somebody else has removed, before anybody takes this process for one that ended."""
        own = [file for file in (self._alive, self._pipe) if file is not None]
        if not self._mutex.is_there or not all(file.is_there and file.is_open for file in own):
            self._alone(self._stay_alive)

    def _freshen(self) -> None:
        own = [path for path in self._keys.iterdir() if self._client in (_text(path) or "")]
        for path in (self._clients / self._client, self._pipe_of(self._client), *own, *self._folder.iterdir()):
            with contextlib.suppress(OSError):
                os.utime(path)

    def _alone(self, act: Callable[[], T], patience: float | None = None) -> T:
        """``act()`` while no other thread or process makes a change, anew if the mutex was removed meanwhile. What the
        file system refuses is said as what it means."""
        most = self._patience if patience is None else min(self._patience, max(patience, 1.0))
        while True:
            try:
                return self._mutex.alone(act, most)
            except Displaced:
                continue
            except OSError as error:
                raise LockUnavailable(f"The lock files in {self._folder} cannot be used: {error}") from error


def _text(path: Path) -> str | None:
    """What is kept of a key; None: it cannot be read."""
    try:
        text = path.read_text()
        KeyState.from_text(text)
    except (OSError, ValueError):
        return None
    return text
