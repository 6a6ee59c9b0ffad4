"""Writes into the index of flow runs where a run stands. The journal is the truth, so a Redis that is away costs only a
warning.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any, NamedTuple

from kapstan.backend import Backend
from kapstan.errors import KapstanError
from kapstan.ids import RunId

logger = logging.getLogger("kapstan.engine")
_END_SECONDS = 5.0  # how long the end of a run waits for the index


class _Summary(NamedTuple):
    run_id: RunId
    fields: dict[str, Any]
    saved: threading.Event


class RunIndex:
    """Saves summaries in the order of the calls: files at once, Redis from a thread that no flow waits for.

    The thread lives as long as something waits to be saved, so a program that runs many flows keeps none of them.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._waiting: deque[_Summary] = deque()
        self._thread: threading.Thread | None = None

    def save(self, run_id: RunId, summary: dict[str, Any], *, last: bool) -> None:
        """Save ``summary``; the ``last`` of a run waits a few seconds until it is there."""
        if not self._backend.settings.redis_url:
            self._save(run_id, summary)
            return
        waits = _Summary(run_id, summary, threading.Event())
        with self._lock:
            self._waiting.append(waits)
            if self._thread is None or not self._thread.is_alive():  # a forked child has none of its parent's threads
                self._thread = threading.Thread(target=self._run, name="kapstan-index", daemon=True)
                self._thread.start()
        if last and not waits.saved.wait(_END_SECONDS):
            logger.warning("The index does not answer; the end of flow run %s stands in its journal only", run_id)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                waits = self._waiting.popleft()
            self._save(waits.run_id, waits.fields)
            waits.saved.set()

    def _save(self, run_id: RunId, summary: dict[str, Any]) -> None:
        try:
            self._backend.flow_runs.save(run_id, summary)
        except KapstanError as error:
            logger.warning("The index does not hold the state of flow run %s: %s", run_id, error)
