"""Whether another process of this machine still lives, without guessing: by its id, its start, and the kernel's word.

A process of another machine, or of another process namespace, is never called dead here.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kapstan.ids import host_label
from kapstan.locks.bell import Bell


def about_this_process() -> str:
    """What others need in order to see the end of this process, as JSON."""
    return json.dumps({"host": host_label(), "pid": os.getpid(), "machine": _machine(), "start": _start(os.getpid())})


def said_for_people(about: str) -> str:
    """``pid 812 on web-1``."""
    known = _parsed(about)
    return f"pid {known['pid']} on {known['host']}" if known.get("pid") else "an unknown process"


def watched(about: str) -> int | None:
    """A descriptor that can be read once the process has ended; -1: it has ended; None: it cannot be watched here."""
    known = _parsed(about)
    if not known.get("machine") or known["machine"] != _machine() or not hasattr(os, "pidfd_open"):
        return None
    try:
        handle = os.pidfd_open(known["pid"])
    except ProcessLookupError:
        return -1
    except OSError:
        return None
    if _start(known["pid"]) == known["start"] and not _readable(handle):
        return handle
    os.close(handle)
    return -1


class Deaths:
    """Watches processes of this machine; ``ended`` is called with the client whose process has ended."""

    def __init__(self, ended: Callable[[str], None]) -> None:
        self._ended = ended
        self._lock = threading.RLock()  # also taken by a coroutine that the garbage collector ends
        self._handles: dict[str, int] = {}
        self._thread: threading.Thread | None = None
        self._bell = Bell()
        self._closed = False

    def watch(self, client: str, about: str) -> bool:
        """False: it has ended already, which ``ended`` is not called for."""
        with self._lock:
            if client in self._handles or self._closed:
                return True
            handle = watched(about)
            if handle is None or handle < 0:
                return handle is None
            self._handles[client] = handle
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="kapstan-lock-deaths", daemon=True)
                self._thread.start()
            self._bell.ring()
            return True

    def forget_all(self) -> None:
        """Nobody waits any more: watch nobody."""
        with self._lock:
            if self._handles:
                self._bell.ring()
            self._drop(list(self._handles))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._drop(list(self._handles))
            if self._thread is None:
                self._bell.close()
            else:
                self._bell.ring()

    def _drop(self, clients: list[str]) -> None:
        for client in clients:
            with contextlib.suppress(OSError, KeyError):
                os.close(self._handles.pop(client))

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._closed:
                    self._bell.close()
                    return
                # Duplicates, so that nobody closes, and the kernel gives anew, a number that is being watched.
                handles = {os.dup(handle): client for client, handle in self._handles.items()}
            poll = select.poll()
            for handle in (self._bell.reader, *handles):
                poll.register(handle, select.POLLIN)
            ready = {handle for handle, _ in poll.poll()}  # also of files that were closed
            gone = [client for handle, client in handles.items() if handle in ready]
            for handle in handles:
                os.close(handle)
            if self._bell.reader in ready and not self._bell.clear():
                return  # code of the user's has closed every file: those who wait look by themselves
            with self._lock:
                self._drop([client for client in gone if client in self._handles])
            for client in gone:
                self._ended(client)


def _readable(handle: int) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(0))


def _parsed(about: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        known = json.loads(about)
        if isinstance(known, dict):
            return known  # pyright: ignore[reportUnknownVariableType]
    return {}


def _machine() -> str:
    """This start of this machine and this process namespace; empty where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _start(pid: int) -> str:
    """When ``pid`` began, in ticks since the machine did; empty if it is not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
