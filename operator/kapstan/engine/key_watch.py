"""Waits for registers that somebody else holds: one thread looks at all of them, however many runs wait.

A look is one read of the store. It is made often while the wait is young and seldom when it is old, and at once when a
run of this very process ends. What is looked for is a change, or proof that the holder's process has ended.
"""

from __future__ import annotations

import logging
import os
import threading
import time

from kapstan import states
from kapstan.backend import Backend
from kapstan.engine.pending import Pending
from kapstan.errors import KapstanError
from kapstan.ports import Entry, RegisterKey, RegisterState
from kapstan.runs import deaths

logger = logging.getLogger("kapstan.task_runs")
_SHORTEST, _LONGEST = 0.004, 1.0
_PART = 50.0
"""A look is made when a wait is longer by this part of itself."""
_IDLE_SECONDS = 5.0


class _Watch:
    """One register that is waited for, and everybody here who does."""

    def __init__(self, backend: Backend, key: RegisterKey, seen: Entry) -> None:
        self.backend = backend
        self.key = key
        self.record = seen.record
        self.found: Entry | None = None
        self.since = time.monotonic()
        self.due = self.since
        self.waiting: list[Pending] = []
        self.asked = 0.0

    def has_changed(self) -> bool:
        """Whether those that wait should look for themselves: also where this look failed. ``found`` is what it saw."""
        self.found = None
        try:
            self.found = entry = self.backend.register.read(self.key)
            if entry is None or entry.record.state is not RegisterState.INTENT:
                return True
            if entry.record.epoch != self.record.epoch or entry.record.holder is None:
                return True
            return deaths.end_of(self.backend, entry.record.holder) is not None
        except KapstanError as error:
            logger.debug("The register of %s cannot be looked at: %s", self.key.task, error)
            return True


class _Watcher:
    """The thread, while there is something to wait for."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._watches: dict[tuple[int, RegisterKey, int], _Watch] = {}
        self._thread: threading.Thread | None = None

    def add(self, backend: Backend, key: RegisterKey, seen: Entry) -> Pending:
        pending = Pending(key.key)
        with self._lock:
            name = (id(backend), key, seen.record.epoch)
            watch = self._watches.get(name)
            if watch is None:
                watch = self._watches[name] = _Watch(backend, key, seen)
            watch.waiting.append(pending)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="kapstan-key-watch", daemon=True)
                self._thread.start()
            self._changed.notify()
        return pending

    def look(self, key: RegisterKey) -> None:
        """Look at ``key`` now: it has changed in this process."""
        with self._lock:
            for watch in self._watches.values():
                if watch.key == key:
                    watch.due = 0.0
                    self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._lock:
                watch = self._next()
                if watch is None:
                    self._thread = None
                    return
            changed = watch.has_changed()
            with self._lock:
                if changed:
                    self._watches = {name: other for name, other in self._watches.items() if other is not watch}
                    waiting, watch.waiting = watch.waiting, []
                else:
                    now, waiting = time.monotonic(), []
                    watch.due = now + min(max((now - watch.since) / _PART, _SHORTEST), _LONGEST)
            for pending in waiting:
                pending.finish(states.Completed(data=watch.found))

    def _next(self) -> _Watch | None:
        """The watch that is due, once it is; None if there was none for a while. Called with the lock."""
        while True:
            if not self._watches:
                if not self._changed.wait_for(lambda: self._watches, _IDLE_SECONDS):
                    return None
                continue
            watch = min(self._watches.values(), key=lambda each: each.due)
            left = watch.due - time.monotonic()
            if left <= 0:
                return watch
            self._changed.wait(left)


_watcher = _Watcher()


def change_of(backend: Backend, key: RegisterKey, seen: Entry) -> Pending:
    """Ends when the register is not as ``seen`` any more, its holder has ended, or it cannot be read.

    The data of its state is the register as it was then found, or None: a hundred that wait need not all read it.
    """
    return _watcher.add(backend, key, seen)


def look_at(key: RegisterKey) -> None:
    """``key`` was changed by this process: those that wait for it here look at once."""
    _watcher.look(key)


def _begin_anew() -> None:
    global _watcher
    _watcher = _Watcher()


os.register_at_fork(after_in_child=_begin_anew)
