"""Keeps the locks of a process alive in Redis, from outside of it: whatever its code does, its lease is renewed.

``Keeper`` starts ``python -m kapstan.queue.lock_keeper`` beside a process that uses locks in Redis. That program counts
the client's beat until the process ends, which it sees by the kernel's word, and then frees what the process held. It
runs no user code. If it is killed alone, the process starts another.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from kapstan.errors import BackendError, LockUnavailable
from kapstan.settings import Settings

log = logging.getLogger("kapstan.queue")
_PROGRAM = "kapstan.queue.lock_keeper"
_READY, _CLOSE = b"ready\n", b"close\n"
_STARTING = 30.0  # seconds; it takes some tenths of one, and longer on a busy machine
_WHOLE = 3600.0  # seconds; how often everything that the client has is prolonged


class Keeper:
    """The keeper of one client of this process.

    Args:
        about: what others are told of this process.
    """

    def __init__(self, settings: Settings, client: str, about: str) -> None:
        asked = {"settings": asdict(settings), "client": client, "about": about, "pid": os.getpid()}
        self._letter = json.dumps(asked).encode() + b"\n"
        self._ready = threading.Event()
        self._closed = False
        self._lock = threading.Lock()
        self._process = self._start()
        threading.Thread(target=self._attend, name="kapstan-lock-keeper", daemon=True).start()
        _keepers.add(self)

    def confirm(self) -> None:
        """Wait until it works.

        Raises:
            LockUnavailable: it does not, for half a minute.
        """
        if not self._ready.wait(_STARTING):
            raise LockUnavailable(
                f"The process that keeps locks alive ({_python()} -m kapstan.queue.lock_keeper) does not work; it has "
                "written the reason to this process' standard error"
            )

    def close(self) -> None:
        """End it, and with it the client."""
        with self._lock:
            self._closed = True
            process = self._process
        with contextlib.suppress(OSError):
            _pipe(process.stdin).write(_CLOSE)
            _pipe(process.stdin).close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # Redis is away; it tries on for a lease, by itself
            process.wait(2.0)
        _keepers.discard(self)

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        try:
            process = subprocess.Popen(
                [_python(), "-P", "-m", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the holder
            )
        except OSError as error:
            raise LockUnavailable(f"The process that keeps locks alive cannot be started: {error}") from error
        with contextlib.suppress(OSError):
            _pipe(process.stdin).write(self._letter)
            _pipe(process.stdin).flush()
        return process

    def _attend(self) -> None:
        """Wait for its end; start another if it was not meant."""
        pause = 0.1
        while True:
            process, began = self._process, time.monotonic()
            stdout = _pipe(process.stdout)
            with contextlib.suppress(OSError):  # the code of the user has closed every file
                if stdout.readline() == _READY:
                    self._ready.set()
                    stdout.read()
                stdout.close()
            process.wait()
            self._ready.clear()
            with self._lock:
                if self._closed:
                    return
            with contextlib.suppress(OSError):
                _pipe(process.stdin).close()
            pause = 0.1 if time.monotonic() - began > 10 else min(10.0, pause * 2)
            log.warning("The process that keeps locks alive ended (%s); starting another", process.returncode)
            time.sleep(pause)
            with self._lock:
                if self._closed:
                    return
                with contextlib.suppress(LockUnavailable):
                    self._process = self._start()


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


def _close_all() -> None:
    for keeper in list(_keepers):
        keeper.close()


def _after_fork() -> None:
    """A forked process has no keeper; that of its parent must not live for its sake."""
    for keeper in list(_keepers):
        _inherited.append(keeper)
        for stream in (keeper._process.stdin, keeper._process.stdout):  # pyright: ignore[reportPrivateUsage]
            with contextlib.suppress(OSError):
                os.close(_pipe(stream).fileno())
    _keepers.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork)


# ---------------------------------------------------------------------- the program


def main() -> int:
    """Renew until the holder ends, then free what it held."""
    asked = json.loads(sys.stdin.buffer.readline())
    settings = Settings(**asked["settings"])
    keeping = _Keeping(settings, asked["client"], asked["about"])
    poll = select.poll()
    for handle in (0, _watched(asked["pid"])):
        if handle is not None:
            poll.register(handle, select.POLLIN | select.POLLHUP)
    whole = time.monotonic()
    said = False
    while os.getppid() == asked["pid"]:
        now = time.monotonic()
        if keeping.renew(now >= whole):
            whole = now + _WHOLE if now >= whole else whole
            if not said:
                said = True
                os.write(1, _READY)
        ready = [handle for handle, _ in poll.poll(settings.beat_seconds * 1000)]
        if 0 in ready and not os.read(0, 4096):
            poll.unregister(0)  # closed without a word: by code that closes every file; the holder lives on
        elif ready:
            break
    keeping.end()
    return 0


class _Keeping:
    """One client's beat."""

    def __init__(self, settings: Settings, client: str, about: str) -> None:
        from kapstan.queue.dialer import Dialer
        from kapstan.queue.keys import prefix_of

        self._settings = settings
        self._client, self._about = client, about
        self._prefix = prefix_of(settings.namespace)
        self._dialer = Dialer(settings)
        self._wire: Any = None

    def renew(self, whole: bool) -> bool:
        """Whether Redis has heard it; one that is away is tried for a beat."""
        from kapstan.queue import scripts

        return self._call(scripts.lock_renew.pack(self._prefix, self._client, self._about, int(whole)), False)

    def end(self) -> None:
        """One that is away is tried for a lease; after that it has passed."""
        from kapstan.queue import scripts

        self._call(scripts.lock_end.pack(self._prefix, self._client), True)

    def _call(self, packed: bytes, last: bool) -> bool:
        from kapstan.queue.wire import ConnectionLost

        def attempt() -> None:
            try:
                self._wire = self._wire or self._dialer.dial()
                self._wire.call(packed)
            except ConnectionLost:
                if self._wire is not None:
                    self._wire.close()
                    self._wire = None
                raise

        try:
            self._dialer.patiently(attempt, self._settings.lease_seconds if last else self._settings.beat_seconds)
        except BackendError:
            return False
        return True


def _watched(pid: int) -> int | None:
    """A descriptor that can be read when the holder has ended; None: only the pipe tells."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


if __name__ == "__main__":
    sys.exit(main())
