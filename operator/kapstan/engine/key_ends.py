"""What became of keyed runs that were ended from outside, on its way to their registers: nobody waits for it any more.

One thread for each backend writes it, until the store takes it or the backend is closed. If the process ends first,
that is known of it, too.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import NamedTuple

from kapstan.backend import Backend

logger = logging.getLogger("kapstan.task_runs")
_PAUSE_SECONDS = 1.0


class _End(NamedTuple):
    settle: Callable[[], object]
    task: str


class _Ends:
    """The ends of one backend that are not written yet."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._due: list[_End] = []
        self._is_running = self._is_closed = False

    def add(self, backend: Backend, end: _End) -> None:
        with self._lock:
            self._due.append(end)
            self._is_closed = False
            backend.before_close(self._close)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="kapstan-key-ends", daemon=True).start()
            self._changed.notify()

    def _close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._lock:
                due, self._due = self._due, []
                if not due or self._is_closed:
                    self._is_running = False
                    return
            left = [end for end in due if not _is_settled(end)]
            with self._lock:
                self._due = left + self._due
                if left:
                    self._changed.wait_for(lambda: self._is_closed, _PAUSE_SECONDS)


def _is_settled(end: _End) -> bool:
    try:
        end.settle()
    except Exception as error:  # noqa: BLE001
        logger.warning("What became of the run of %s is not noted yet: %s", end.task, error)
        return False
    except BaseException:
        logger.exception("What became of the run of %s is noted when this process has ended", end.task)
    return True


_ends: weakref.WeakKeyDictionary[Backend, _Ends] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def settle_later(backend: Backend, settle: Callable[[], object], task: str) -> None:
    """Call ``settle`` on a thread until it raises nothing, or ``backend`` is closed."""
    with _lock:
        ends = _ends.setdefault(backend, _Ends())
    ends.add(backend, _End(settle, task))


def _after_fork() -> None:
    global _ends, _lock
    _ends = weakref.WeakKeyDictionary()
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
