"""The second thread of an executor child: gives back what waits behind a long run, and ends the child with its parent.

It sleeps while no batch runs, and looks every 10 ms while one does. A task that holds the GIL stops this thread, too:
then the supervisor, which sees the same board, does the recall after 200 ms.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time

from kapstan.ports import Lane
from kapstan.worker.board import Slot
from kapstan.worker.executor import TROUBLE, Executor, report_lost
from kapstan.worker.pace import LONG

logger = logging.getLogger("kapstan.worker")

_LOOK = 0.01
_LOOK_AGAIN = 0.2


class Guard(threading.Thread):
    """Watches one executor.

    Args:
        lane: the executor's; this thread uses what is safe to call from a second one.
        supervisor: the socket whose other end only the supervisor has; its end of file means that there is none.
    """

    def __init__(self, slot: Slot, lane: Lane, supervisor: socket.socket) -> None:
        super().__init__(name="kapstan-guard", daemon=True)
        self._slot = slot
        self._lane = lane
        self._supervisor = supervisor
        self._executor: Executor | None = None
        self._recalled = ""
        self._batches = self._seen = 0
        self._looking = False
        self._bell, self._ring = os.pipe()

    def watch(self, executor: Executor) -> None:
        """Begin; called once, before the executor runs."""
        self._executor = executor
        self.start()

    def batch_begins(self) -> None:
        """Called by the executor's thread; costs nothing while the guard looks anyway."""
        self._batches += 1
        if not self._looking:
            self._looking = True
            os.write(self._ring, b"!")

    def run(self) -> None:
        pause: float | None = None
        while True:
            ready, _, _ = select.select([self._supervisor, self._bell], [], [], pause)
            if self._supervisor in ready and not _alive(self._supervisor):
                os._exit(1)
            if self._bell in ready:
                os.read(self._bell, 64)
            pause = self._look()
            if pause is None:
                self._looking = False
            if self._batches != self._seen:  # while batches follow each other it stays awake
                self._seen, self._looking, pause = self._batches, True, pause or _LOOK

    def _look(self) -> float | None:
        """Recall if the executing run is long; seconds until the next look, None until the next batch."""
        executing = self._slot.executing()
        if executing is None or executing.run_id == self._recalled:
            return None
        age = time.monotonic() - executing.since
        if age < LONG:
            return _LOOK
        try:
            self._recall()
        except TROUBLE as error:
            logger.info("The queue is away; what waits behind run %s waits on: %s", executing.run_id, error)
            return _LOOK_AGAIN
        if self._executor is not None and self._executor.step_under_way and age < _LOOK_AGAIN:
            return age  # a step that was on its way may have claimed after the recall
        self._recalled = executing.run_id
        return None

    def _recall(self) -> None:
        """Hand in what is finished and give back what has not begun."""
        executor = self._executor
        assert executor is not None
        with executor.lock:
            self._slot.recalled = True
            kept = self._slot.kept()
            outcomes = list(executor.outcomes)
            if outcomes:
                report_lost(self._lane.hand_in(outcomes))
                for _ in outcomes:
                    executor.outcomes.popleft()
            self._lane.give_back(kept)


def _alive(supervisor: socket.socket) -> bool:
    """Read and drop what the supervisor sent (a second go); False at the end of file."""
    try:
        return bool(supervisor.recv(64))
    except BlockingIOError:
        return True
    except OSError:
        return False
