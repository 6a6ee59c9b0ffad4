"""Keeps the locks of a process alive in Redis, from outside of it: whatever its code does, its lease is renewed.

``python -m kapstan.queue.lock_keeper`` counts the beat of one client until its process ends, which it sees by the
kernel's word, and then frees what the process held. It runs no user code. ``keeper`` starts it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from kapstan.errors import BackendError
from kapstan.settings import Settings

READY, CLOSE = b"ready\n", b"close\n"
_WHOLE = 3600.0  # seconds; how often everything that the client has is prolonged


def main() -> int:
    """Renew until the holder ends, then free what it held."""
    asked, closed = _letter()
    if asked is None:
        return 0
    settings = Settings(**asked["settings"])
    keeping = _Keeping(settings, asked["client"], asked["about"])
    pid, start = asked["pid"], asked["start"]
    program = program_of(pid)
    poll = select.poll()
    for handle in (0, _watched(pid)):
        if handle is not None:
            poll.register(handle, select.POLLIN | select.POLLHUP)
    whole = time.monotonic()
    said = False
    while not closed and _lives(pid, start):
        now = time.monotonic()
        if keeping.renew(now >= whole):
            whole = now + _WHOLE if now >= whole else whole
            if not said:
                said = True
                with contextlib.suppress(OSError):  # the holder ends, or has closed every file
                    os.write(1, READY)
        ready = [handle for handle, _ in poll.poll(settings.beat_seconds * 1000)]
        if 0 in ready and not os.read(0, 4096):
            if program_of(pid).stack != program.stack:  # it executes another one (os.exec), which holds nothing
                break
            poll.unregister(0)  # closed without a word: by code that closes every file; the holder lives on
        elif ready:
            break
    keeping.end()
    return 0


def _letter() -> tuple[dict[str, Any] | None, bool]:
    """What to keep, and whether that has been closed meanwhile; None: whoever asked has ended."""
    said = b""
    while b"\n" not in said:
        more = os.read(0, 65536)
        if not more:
            return None, True
        said += more
    letter, _, rest = said.partition(b"\n")
    return json.loads(letter), bool(rest)


class _Program(NamedTuple):
    """What a process executes; empty where that cannot be seen.

    Attributes:
        start: when the process began.
        stack: where its stack is, which differs for each program that it executes.
    """

    start: str
    stack: str


def program_of(pid: int) -> _Program:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return _Program("ended", "") if fields[0] in ("Z", "X") else _Program(fields[19], fields[25])
    except (OSError, IndexError):
        return _Program("", "")


def _lives(pid: int, start: str) -> bool:
    """Whether the holder is still there: no other process under its number."""
    if start:
        return program_of(pid).start == start
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


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
