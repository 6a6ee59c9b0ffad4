"""A worker's lease and its fence: renewed once a beat; while that is not acknowledged, runs with effects end.

If the queue has not acknowledged a renewal for 0.7 of a lease, children that execute runs of an effect class are killed
with everything they started, because somebody else may soon be given their runs; ``pure`` runs go on, their outcome is
fenced.
"""

from __future__ import annotations

import logging
import signal
import time
from types import FrameType

from kapstan.ports import Renewed, Session
from kapstan.settings import Settings
from kapstan.states import EffectClass
from kapstan.worker.executor import TROUBLE
from kapstan.worker.lanes import Lanes

logger = logging.getLogger("kapstan.worker")

FENCE = 0.7
"""Share of a lease after which an unacknowledged supervisor stops runs with effects."""


class Lease:
    """The lease of one session.

    Args:
        lanes: whose claims are announced after an outage, and whose children are broken off.

    Attributes:
        due: monotonic time of the next renewal.
    """

    def __init__(self, session: Session, settings: Settings, lanes: Lanes) -> None:
        self._session = session
        self._settings = settings
        self._lanes = lanes
        self._away = False
        self._acknowledged_at = 0.0
        self._acknowledged(time.monotonic())
        self.due = self._acknowledged_at + settings.beat_seconds

    def renew(self) -> Renewed | None:
        """Prolong the lease; None if the queue could not be asked: it is asked again a beat later."""
        now = time.monotonic()
        self.due = now + self._settings.beat_seconds
        try:
            renewed = self._session.renew(self._lanes.recalled() if self._away else None)
        except TROUBLE as error:  # the store, too: to raise the era of a new start of Redis
            self._away = True
            logger.warning("The lease is not renewed since %.1f s: %s", time.monotonic() - self._acknowledged_at, error)
            return None
        if self._away:
            self._away = False
            self._lanes.look()  # who was recalled settles
        self._acknowledged(now)  # the time of sending: the lease began no earlier
        if not renewed.alive:
            self._lanes.recalled()  # they begin nothing of what they were given before
            logger.warning("This session had ended; it was opened anew, and its runs are somebody else's")
            self._lanes.look()  # and ask again
        for session in renewed.reaped:
            logger.warning("Worker session %s was silent for a lease; its runs went back to the queue", session)
        if renewed.next_due is not None:
            self.due = min(self.due, time.monotonic() + renewed.next_due)
        return renewed

    def _acknowledged(self, sent_at: float) -> None:
        """The queue knows this session since ``sent_at``: set the fence, an alarm that also interrupts a call that
        does not return."""
        self._acknowledged_at = sent_at
        lease = self._settings.lease_seconds
        left = sent_at + FENCE * lease - time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, max(left, 0.001), lease / 10)

    def on_fence(self, _signal: int, _frame: FrameType | None) -> None:
        """Handler of SIGALRM."""
        for child in self._lanes:
            executing = child.slot.executing()
            if executing is not None and executing.effect is not EffectClass.PURE and not child.pardoned:
                logger.error("Run %s is broken off: the lease may end, and another be given the run", executing.run_id)
                child.pardoned = True
                child.kill()
