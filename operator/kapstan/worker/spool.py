"""Keeps an outcome whose value the store does not take, until it does: what was computed is never executed again.

Kept in memory, not on disk: a full disk is one of the reasons for which it is kept, and what the process is killed with
is claimed anew like any run whose process died. The lane claims nothing meanwhile and its supervisor renews the claim;
what waits behind it is given back by the guard, as behind a long run. When the worker must leave, or the run was
cancelled, the value goes into Redis whole, however large: memory there is dear, a second execution is wrong.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from kapstan.errors import HandBack
from kapstan.ports import Outcome
from kapstan.worker.board import Order, Slot

logger = logging.getLogger("kapstan.worker")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_LOOK = 0.1  # seconds between two looks at the board: orders come without a word to this thread


class Spool:
    """The outcomes of one lane on their way to the store; used by the lane's main thread.

    Args:
        store: what ``BackgroundEngine.stored`` does.

    Attributes:
        storing: the run whose outcome is being stored now, "" if none. A signal handler of this thread may then raise
            HandBack to end the attempt.
    """

    def __init__(self, store: Callable[[Outcome], Outcome], slot: Slot) -> None:
        self._store = store
        self._slot = slot
        self.storing = ""

    def stored(self, outcome: Outcome) -> Outcome:
        """``outcome`` as it goes to the queue; blocks until the store takes it, or the lane must go on without."""
        since, pause = time.monotonic(), _FIRST_PAUSE
        untried = outcome.state == "cancelled"  # its lane is told to go, and has time: nothing of it can be lost
        while (untried and self._slot.order != Order.STOP) or not self._must_go(outcome):
            untried = False
            try:
                self.storing = outcome.run_id
                kept = self._store(outcome)
                self.storing = ""
            except HandBack:
                self.storing = ""
            except Exception as error:  # noqa: BLE001  (whatever the store's client raises, the outcome stays)
                self.storing = ""
                logger.warning(
                    "The outcome of run %s waits since %.1f s, and this lane with it, for a store that takes its %d "
                    "bytes: %s",
                    outcome.run_id, time.monotonic() - since, len(outcome.envelope), error,
                )  # fmt: skip
                self._rest(outcome, pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                if pause > _FIRST_PAUSE:
                    logger.info("The outcome of run %s is stored", outcome.run_id)
                return kept
        logger.warning(
            "The store does not take the outcome of run %s and this lane cannot wait: its %d bytes go into Redis",
            outcome.run_id, len(outcome.envelope),
        )  # fmt: skip
        return outcome

    def _must_go(self, outcome: Outcome) -> bool:
        return self._slot.order == Order.STOP or self._slot.cancel == outcome.run_id

    def _rest(self, outcome: Outcome, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._must_go(outcome) and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK))
