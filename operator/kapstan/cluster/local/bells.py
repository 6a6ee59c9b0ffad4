"""Tells a launcher when its processes start, become ready and end, and ends those whose time is up.

Used by `processes`. The end of a waiter closes the named pipe that it holds, which the event loop hears at once; only
what leaves no such trace is looked at again and again: a start that takes its milliseconds, a readiness file, a command
whose waiter was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Generator
from pathlib import Path

from kapstan.cluster.local.process import Process
from kapstan.ports import Key

LOOK = 0.05
"""Seconds between two looks at what cannot ring."""


class Bells:
    """One task per process that lives; see the module."""

    def __init__(self, clock: Callable[[], float], changed: Callable[[Key], None]) -> None:
        self._clock = clock
        self._changed = changed
        self._watches: dict[Path, asyncio.Task[None]] = {}

    def hang(self, process: Process, key: Key, ready: Path | None = None) -> None:
        """Watch this process from now on. Called again for one that is watched, it notes that process' stop."""
        if process.folder not in self._watches:
            watch = asyncio.get_running_loop().create_task(self._watch(process, key, ready))
            self._watches[process.folder] = watch
            watch.add_done_callback(lambda _: self._watches.pop(process.folder, None))

    async def see_off(self, process: Process) -> None:
        """Return when the process has ended; it is killed when its time is up."""
        with _pipe(process) as closed:
            while not process.ended and (process.pid is not None or process.alive):
                await self._wait(process, closed)

    def close(self) -> None:
        for watch in self._watches.values():
            watch.cancel()

    async def _watch(self, process: Process, key: Key, ready: Path | None) -> None:
        with _pipe(process) as closed:
            while process.pid is None and not process.ended and process.request is not None:
                await self._wait(process, closed, LOOK)
            self._changed(key)
            while ready is not None and not process.ended and not _exists(ready):
                await self._wait(process, closed, LOOK)
            self._changed(key)
            while not process.ended and process.request is not None:
                await self._wait(process, closed)
        self._changed(key)

    async def _wait(self, process: Process, closed: asyncio.Event, longest: float = 1.0) -> None:
        """Until the waiter has ended or it is time to look; a process that is overdue is killed, one that was sent
        SIGTERM before it had a pid is sent it again."""
        kill_at = process.stopping
        if kill_at is not None:
            left = kill_at - self._clock()
            if left <= 0:
                process.kill()
            else:
                process.stop(kill_at)
            longest = min(longest, max(left, LOOK))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK if closed.is_set() else longest):
                await (asyncio.Event() if closed.is_set() else closed).wait()


def _exists(path: Path) -> bool:
    return path.exists()


@contextlib.contextmanager
def _pipe(process: Process) -> Generator[asyncio.Event]:
    """An event that is set when the process' waiter ends."""
    closed = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        descriptor = os.open(process.folder / "alive", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        closed.set()
        yield closed
        return

    def hear() -> None:
        loop.remove_reader(descriptor)
        closed.set()

    loop.add_reader(descriptor, hear)
    try:
        yield closed
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
