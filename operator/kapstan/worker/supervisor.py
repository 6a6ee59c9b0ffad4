"""Keeps a worker's place in the queue: the lease, the children, their deaths, the drain. Runs no user code.

One thread, one loop, one place where it sleeps: ``Session.wait``, which a signal handler ends. What it does in an hour
without work: one renewal per beat. A child's death is answered at once (``lanes``), a lease that is not acknowledged
breaks off what has effects (``lease``), a stop lets runs finish and then breaks them off.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Sequence
from types import FrameType

from kapstan.alarm import Theirs
from kapstan.backend import Backend
from kapstan.errors import QueueUnavailable, StoreUnavailable
from kapstan.ids import RunId
from kapstan.ports import Session
from kapstan.states import ExitCode
from kapstan.worker import children
from kapstan.worker.board import Order
from kapstan.worker.children import Child
from kapstan.worker.executor import TROUBLE
from kapstan.worker.lanes import Lanes, Service
from kapstan.worker.lease import Lease
from kapstan.worker.recall import recall

logger = logging.getLogger("kapstan.worker")

HANGING = 0.2
"""Seconds after which the supervisor recalls what the child's own guard has not (a task that holds the GIL)."""
CANCEL_GRACE = 5.0
"""Seconds a cancelled run has to end after the interrupt, before its process is killed."""
STOP_GRACE = 2.0
"""The same for a run that is broken off at the end of a drain."""
LOOK_AGAIN = 0.5
"""Seconds between two words to idle children of a drain: a signal may end up unheard."""
BREATH = 0.05
"""Seconds between two tries at a queue or a store that refuses at once."""


class Supervisor:
    """One worker process' parent. ``run`` is its life; use it from the main thread.

    Args:
        backend: its queue is opened after the first children were forked.
    """

    def __init__(self, service: Service, backend: Backend) -> None:
        self._service = service
        self._backend = backend
        self._lanes = Lanes(service, backend)
        self._session: Session | None = None
        self._lease: Lease | None = None
        self._stop_signals = 0
        self._stop_at: float | None = None
        self._drained = False
        self._broken_off = False
        self._bell, self._ring = os.pipe()
        os.set_blocking(self._ring, False)
        os.set_blocking(self._bell, False)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT and the drain that follows; the exit code.

        0: drained, every run finished. 75: runs were broken off and went back to the queue. 2: the tasks could not be
        loaded.

        Raises:
            ConfigurationError: the tasks could not be loaded, with the reason.
            QueueUnavailable, StoreUnavailable: one of them was away for ``patience`` at the start.
        """
        before = {name: signal.signal(name, self._on_stop) for name in (signal.SIGTERM, signal.SIGINT)}
        before |= {name: signal.signal(name, self._on_look) for name in (signal.SIGCHLD, children.LOOK)}
        alarm = Theirs()
        signal.signal(signal.SIGALRM, self._on_fence)
        try:
            first = self._lanes.begin(self._bell, lambda: self._stop_signals > 0)
            if first is None:
                return ExitCode.DONE
            opened = self._open(first)
            if opened is None:
                return ExitCode.DONE
            session, lease = opened
            while not self._is_done():
                self._pass(session, lease)
                if not self._is_done():
                    self._pause(session, lease)
            return self._end(session)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            try:
                self._lanes.kill_all()
            finally:
                for name, handler in before.items():
                    signal.signal(name, handler)
                alarm.go_on()

    def _is_done(self) -> bool:
        """Whether it was told to stop, and no child is left."""
        return self._stop_signals > 0 and self._lanes.order != Order.SERVE and not self._lanes

    def _open(self, first: Child) -> tuple[Session, Lease] | None:
        """The session, as soon as the queue takes it; None: told to stop before."""
        service, served = self._service, first.served or ()
        until = time.monotonic() + service.patience
        while True:
            try:
                session = self._backend.queue.open_session(
                    service.worker, served, service.lanes, session=service.session, limits=first.limits
                )
                break
            except (QueueUnavailable, StoreUnavailable) as error:
                if self._stop_signals:
                    return None
                if time.monotonic() >= until:
                    raise
                logger.warning("This worker cannot begin yet: %s", error)
                time.sleep(BREATH)
        self._session = session
        lease = self._lease = Lease(session, self._backend.settings, self._lanes)
        self._lanes.go()
        service.on_ready(served)
        return session, lease

    def _end(self, session: Session) -> int:
        """Close the session: what it still holds goes back, and no lease must pass before others take it."""
        try:
            session.close()
        except TROUBLE as error:
            logger.warning("The queue is away; this session ends with its lease: %s", error)
        return ExitCode.HANDED_BACK if self._broken_off else ExitCode.DONE

    # ------------------------------------------------------------------ one pass

    def _pass(self, session: Session, lease: Lease) -> None:
        """Everything that is due now."""
        self._drain(session)
        self._lanes.bury()
        self._lanes.tell_deaths(session)
        self._lanes.refork()
        self._lanes.settle_spares()
        if time.monotonic() >= lease.due and (renewed := lease.renew()) is not None:
            if renewed.drain and not self._drained:
                self._drained = True
                self._drain(session)
            if not renewed.alive and self._lanes.order != Order.SERVE:
                self._tell_drain(session)  # what was opened anew does not know
            self._cancel(session, renewed.cancelled)
        self._watch(session, time.monotonic())

    def _pause(self, session: Session, lease: Lease) -> None:
        """Sleep until something is due: the one place where this process sleeps."""
        now = time.monotonic()
        due = [lease.due, *self._lanes.due]
        if self._stop_at is not None:
            due.append(self._stop_at)
        if self._lanes.board.watched:
            due.append(now + HANGING / 2)
        if self._lanes.order == Order.DRAIN and self._lanes:
            due.append(now + LOOK_AGAIN)
        timeout = max(0.0, min(due) - now)
        try:
            if session.wait(timeout):
                lease.due = time.monotonic()  # a cancel, a drain, something due sooner: the renewal tells
        except TROUBLE:
            select.select([self._bell], [], [], timeout)
        with contextlib.suppress(BlockingIOError):
            os.read(self._bell, 4096)

    # ------------------------------------------------------------------ signals

    def _on_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stop_signals += 1
        self._wake()

    def _on_look(self, _signal: int, _frame: FrameType | None) -> None:
        self._wake()

    def _on_fence(self, signal: int, frame: FrameType | None) -> None:
        if self._lease is not None:
            self._lease.on_fence(signal, frame)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._ring, b"!")
        if self._session is not None:
            self._session.wake()

    # ------------------------------------------------------------------ runs that hang, or are cancelled

    def _watch(self, session: Session, now: float) -> None:
        """Recall what waits behind a hanging run; kill what was ordered to end and has not."""
        busy = False
        for child in self._lanes:
            executing = child.slot.executing()
            if child.cancelled and (executing is None or executing.run_id != child.cancelled):
                child.cancelled, child.kill_at = "", None  # the interrupt was enough
            if child.kill_at is not None and now >= child.kill_at:
                child.kill_at, child.pardoned = None, True
                child.kill()
            if executing is None or child.slot.recalled or not child.slot.waiting():
                continue
            busy = True
            if now - executing.since >= HANGING:
                self._recall(session, child)
        self._lanes.board.watched = busy

    def _recall(self, session: Session, child: Child) -> None:
        """What the child's guard would do, could it run."""
        try:
            recall(child.slot, child.lane, session)
        except TROUBLE as error:
            logger.info("The queue is away; what waits behind a long run waits on: %s", error)

    def _cancel(self, session: Session, cancelled: Sequence[RunId]) -> None:
        """Interrupt the children that execute these runs. What has not begun is taken back, and the queue ends it."""
        unbegun = [run_id for run_id in cancelled if not self._interrupt(run_id)]
        if not unbegun:
            return
        try:
            lanes = {lane for lane, run_id, _ in session.claims() if run_id in unbegun}
        except TROUBLE as error:
            logger.info("The queue is away; runs that are to be cancelled wait for the next renewal: %s", error)
            return
        for child in self._lanes:
            if child.lane in lanes:
                self._recall(session, child)
                child.look()
        for run_id in unbegun:  # it may have begun before it was recalled
            self._interrupt(run_id)

    def _interrupt(self, run_id: RunId) -> bool:
        """Whether a child executes ``run_id``; it is told to break it off."""
        for child in self._lanes:
            executing = child.slot.executing()
            if executing is not None and executing.run_id == run_id:
                if child.cancelled != run_id:
                    logger.info("Run %s is cancelled", run_id)
                    child.cancelled = child.slot.cancel = run_id
                    child.look()
                    child.kill_at = time.monotonic() + CANCEL_GRACE
                return True
        return False

    # ------------------------------------------------------------------ drain

    def _drain(self, session: Session) -> None:
        """Claim nothing more. SIGTERM: and leave when what runs has finished; a second one, or the end of the time:
        break it off. Drained through the queue it stays, since an exit would start a pod's container anew."""
        lanes = self._lanes
        if (self._stop_signals or self._drained) and lanes.order == Order.SERVE:
            lanes.give_order(Order.DRAIN)
            self._service.on_drain()
            if not self._stop_signals:
                logger.info("Draining: what runs may finish, nothing more is claimed until this process is ended")
            self._tell_drain(session)
        elif lanes.order == Order.DRAIN:
            lanes.wake_idle()
        now = time.monotonic()
        if self._stop_signals and self._stop_at is None:
            logger.info("Draining: runs have %.0f s to finish", self._service.drain_seconds)
            self._stop_at = now + self._service.drain_seconds
        if (
            self._stop_at is not None
            and lanes.order == Order.DRAIN
            and (self._stop_signals > 1 or now >= self._stop_at)
        ):
            self._stop_at = float("inf")
            self._broken_off = any(child.slot.executing() for child in lanes)
            lanes.give_order(Order.STOP)
            for child in lanes:
                child.cancelled, child.kill_at = "", now + STOP_GRACE

    def _tell_drain(self, session: Session) -> None:
        try:
            session.drain()
        except TROUBLE as error:
            logger.warning("The queue is away and does not know of the drain: %s", error)
