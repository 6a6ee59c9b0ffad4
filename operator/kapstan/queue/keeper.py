"""The process that keeps the locks of this one alive in Redis (``lock_keeper``), seen from here.

``Keeper`` starts ``python -m kapstan.queue.lock_keeper`` beside a process that uses locks in Redis, and another one if
that is killed. It is the child of init, not of the process, so that code that waits for all its children (``os.wait``)
neither waits for it nor reaps it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, NamedTuple

from kapstan.errors import LockUnavailable
from kapstan.queue.lock_keeper import CLOSE, READY, program_of
from kapstan.settings import Settings

log = logging.getLogger("kapstan.queue")
_PROGRAM = "kapstan.queue.lock_keeper"
_STARTING = 30.0  # seconds; it takes some tenths of one, and longer on a busy machine
_DETACH = """
import os, sys
pid = os.fork()
if pid:
    os.write(1, b"%d\\n" % pid)
else:
    os.execv(sys.argv[1], sys.argv[1:])
"""  # a child for some hundredths of a second, whose own child is the keeper


class Keeper:
    """The keeper of one client of this process.

    Args:
        about: what others are told of this process.

    Raises:
        LockUnavailable: it cannot be started.
    """

    def __init__(self, settings: Settings, client: str, about: str) -> None:
        asked = {"settings": asdict(settings), "client": client, "about": about, "pid": os.getpid()}
        self._letter = json.dumps({**asked, "start": program_of(os.getpid()).start}).encode() + b"\n"
        self._ready = threading.Event()
        self._ended = threading.Event()
        self._closed = False
        self._lock = threading.Lock()
        self._running = _start(self._letter)
        try:
            threading.Thread(target=self._attend, name="kapstan-lock-keeper", daemon=True).start()
        except BaseException:
            self._running.dismiss()
            self._running.forget()
            raise
        _keepers.add(self)

    def confirm(self) -> None:
        """Wait until it works.

        Raises:
            LockUnavailable: it does not, for half a minute, or it was closed.
        """
        if self._ready.is_set():
            return
        until = time.monotonic() + _STARTING
        while not self._closed and time.monotonic() < until:
            if self._ready.wait(0.1):
                return
        if self._closed:
            raise LockUnavailable("the locks of this process were closed meanwhile")
        raise LockUnavailable(
            f"The process that keeps locks alive ({_python()} -m {_PROGRAM}) does not work; it has written the reason "
            "to this process' standard error"
        )

    def close(self) -> None:
        """End it, and with it the client. While Redis is away it tries on for a lease, by itself."""
        with self._lock:
            self._closed = True
            running = self._running
        running.dismiss()
        self._ended.wait(2.0)
        _keepers.discard(self)

    def _attend(self) -> None:
        """Wait for its end; start another if it was not meant."""
        pause = 0.1
        while True:
            began = time.monotonic()
            self._running.await_end(self._ready.set)
            self._ready.clear()
            self._running.forget()
            pause = 0.1 if time.monotonic() - began > 10 else min(10.0, pause * 2)
            if not self._start_again(pause):
                self._ended.set()
                return

    def _start_again(self, pause: float) -> bool:
        """False: it was closed."""
        warned = False
        while True:
            with self._lock:
                if self._closed:
                    return False
            if not warned:
                log.warning("The process that keeps locks alive ended; starting another")
                warned = True
            time.sleep(pause)
            with self._lock:
                if self._closed:
                    return False
                with contextlib.suppress(LockUnavailable):
                    self._running = _start(self._letter)
                    return True

    def disinherit(self) -> None:
        """In a forked process: the parent's keeper must not live for its sake. By number: a thread of the parent's may
        have been reading, and its stream is locked for ever here."""
        for stream in (self._running.letter, self._running.said):
            with contextlib.suppress(OSError, ValueError):
                os.close(stream.fileno())


class _Running(NamedTuple):
    """A keeper that was started.

    Attributes:
        letter: can be written to it.
        said: what it says: ready; it ends with it.
    """

    pid: int
    letter: IO[bytes]
    said: IO[bytes]

    def dismiss(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.letter.write(CLOSE)
            self.letter.close()

    def await_end(self, ready: Callable[[], object]) -> None:
        with contextlib.suppress(OSError, ValueError):  # the code of the user has closed every file
            if self.said.readline() == READY:
                ready()
                self.said.read()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)  # where this process is init itself, or a subreaper, it is its child after all
        while is_keeper(self.pid):
            time.sleep(0.2)

    def forget(self) -> None:
        for stream in (self.letter, self.said):
            with contextlib.suppress(OSError, ValueError):
                stream.close()


def _start(letter: bytes) -> _Running:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    python = _python()
    try:
        process = subprocess.Popen(
            [python, "-I", "-S", "-c", _DETACH, python, "-P", "-m", _PROGRAM, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the holder
        )
    except OSError as error:
        raise LockUnavailable(f"The process that keeps locks alive cannot be started: {error}") from error
    said, to = _pipe(process.stdout), _pipe(process.stdin)
    try:
        pid = int(said.readline())
        process.wait(_STARTING)
        to.write(letter)
        to.flush()
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        for stream in (to, said):
            with contextlib.suppress(OSError):
                stream.close()
        raise LockUnavailable(f"The process that keeps locks alive did not start: {error}") from error
    return _Running(pid, to, said)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _python() -> str:
    """This interpreter, also where the program that runs is another (uWSGI)."""
    if Path(sys.executable).name.startswith(("python", "pypy")):
        return sys.executable
    return str(Path(sys.exec_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}")


def is_keeper(pid: int) -> bool:
    """Whether the process is a keeper: it ends by itself when its holder has."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:4] == [b"-P", b"-m", _PROGRAM.encode()]
    except OSError:
        return False


_keepers: weakref.WeakSet[Keeper] = weakref.WeakSet()
_inherited: list[Keeper] = []


def _after_fork() -> None:
    """A forked process has no keeper."""
    for keeper in list(_keepers):
        _inherited.append(keeper)
        keeper.disinherit()
    _keepers.clear()


os.register_at_fork(after_in_child=_after_fork)
