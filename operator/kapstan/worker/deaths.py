"""Reports deaths of lanes to the queue, in order; what did not reach it is reported again."""

from __future__ import annotations

import logging
import signal
import time
from collections import deque
from typing import Any

from kapstan.backend import Backend
from kapstan.engine import values
from kapstan.ids import RunId, host_label
from kapstan.ports import Session
from kapstan.worker.executor import TROUBLE

logger = logging.getLogger("kapstan.worker")


def cause_of(code: int) -> str:
    """How a process ended, for people; ``code``: its exit code, or a signal as a negative number."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"  # some have no name
    return f"killed by {name}"


def seen_end(seen: str, cause: str, lines: list[str]) -> dict[str, Any]:
    """What proves that a process has ended, by whoever saw it on this machine.

    Args:
        lines: what it has logged last.
    """
    evidence = {"seen": seen, "cause": cause, "host": host_label()}
    return {**evidence, "log": lines} if lines else evidence


class Deaths:
    """What the queue has not heard of yet.

    Args:
        what: what has died, for the reason of a quarantine: "its process".
    """

    def __init__(self, backend: Backend, what: str) -> None:
        self._backend = backend
        self._what = what
        self._untold: deque[tuple[int, RunId | None, float]] = deque()
        self._unnoted: deque[tuple[str, dict[str, Any]]] = deque()

    @property
    def lanes(self) -> set[int]:
        """The lanes whose deaths are not reported yet: nothing may be claimed on them before."""
        return {lane for lane, _, _ in list(self._untold)}

    def add(self, lane: int, executing: RunId | None) -> None:
        """``lane`` has died. ``executing`` is charged with a crash; what it held besides goes back unharmed."""
        self._untold.append((lane, executing, time.monotonic()))

    def seen(self, executor: str, cause: str, lines: list[str]) -> None:
        """The process of ``executor`` has ended: who finds an intent of its run must know before it finds the run.

        Args:
            lines: what the run that it executed has logged at last.
        """
        self._unnoted.append((executor, seen_end(f"its worker saw the process end: {cause}", cause, lines)))

    def tell(self, session: Session) -> None:
        """Tell the queue; where it does not answer, the rest is kept."""
        try:
            while self._unnoted:
                self._backend.queue.note_end(*self._unnoted[0])
                self._unnoted.popleft()
        except TROUBLE as error:
            logger.warning("The queue is away and does not know of the end of a process yet: %s", error)
            return
        while self._untold:
            lane, executing, died = self._untold[0]
            try:
                self._tell(session, lane, executing, died)
            except TROUBLE as error:
                logger.warning("The queue is away and does not know of a crash yet: %s", error)
                return
            self._untold.popleft()

    def _tell(self, session: Session, lane: int, executing: RunId | None, died: float) -> None:
        limit, envelope = self._backend.settings.max_crashes, b""
        if executing is not None:
            reason = f"{self._what} died {values.times(limit)} while executing it; it is quarantined"
            envelope = values.seal_reason(self._backend, reason, executing)
        if session.lane_died(lane, executing, envelope, died):
            logger.error("Run %s is quarantined: it ended %s %s", executing, self._what, values.times(limit))
