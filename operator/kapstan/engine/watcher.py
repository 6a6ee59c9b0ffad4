"""Calls back when background runs end; used by ``futures``. It waits as long as it takes: if the queue does not answer
in time, it asks again."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from kapstan import backend as backends
from kapstan.engine.pending import run_callback
from kapstan.errors import BackendError
from kapstan.ids import RunId

logger = logging.getLogger("kapstan.engine")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


class _Watcher:
    """A thread for each batch of runs that were added together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._added: dict[RunId, list[Callable[[], object]]] = {}

    def add(self, run_id: RunId, callback: Callable[[], object]) -> None:
        with self._lock:
            start = not self._added
            self._added.setdefault(run_id, []).append(callback)
        if start:
            threading.Thread(target=self._watch, name="kapstan-futures", daemon=True).start()

    def _watch(self) -> None:
        with self._lock:
            batch, self._added = self._added, {}
        pause = _FIRST_PAUSE
        while batch:
            try:
                ended = backends.current().queue.wait(list(batch), None)
            except BackendError as error:
                logger.warning("Runs that are waited for cannot be asked for, trying again: %s", error)
                threading.Event().wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            for run_id in ended:
                for callback in batch.pop(run_id):
                    run_callback(callback)


_watcher = _Watcher()


def add(run_id: RunId, callback: Callable[[], object]) -> None:
    """Call ``callback`` once, on another thread, when ``run_id`` has ended."""
    _watcher.add(run_id, callback)


def _after_fork() -> None:
    global _watcher
    _watcher = _Watcher()


os.register_at_fork(after_in_child=_after_fork)
