"""Keeps a worker's place in the queue: the lease, the children, their crashes, the drain. Runs no user code.

One thread, one loop, one place where it sleeps: ``Session.wait``, which a signal handler ends. What it does in an hour
without work: one renewal per beat.

A child's death is answered at once: the queue is told which run it was executing (that one is charged with a crash),
the others go back unharmed, and a new child takes the lane. If the queue has not acknowledged a renewal for 0.7 of a
lease, children that execute runs of an effect class are killed, because somebody else may soon be given their runs;
``pure`` runs go on, their outcome is fenced.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import FrameType

from kapstan.backend import Backend
from kapstan.engine import values
from kapstan.errors import ConfigurationError, QueueUnavailable, StoreUnavailable
from kapstan.ids import RunId, Token
from kapstan.ports import Session
from kapstan.states import EffectClass, ExitCode
from kapstan.worker import child as child_module
from kapstan.worker import children
from kapstan.worker.board import Board, Order
from kapstan.worker.children import Child

logger = logging.getLogger("kapstan.worker")

HANGING = 0.2
"""Seconds after which the supervisor recalls what the child's own guard has not (a task that holds the GIL)."""
CANCEL_GRACE = 5.0
"""Seconds a cancelled run has to end after the interrupt, before its process is killed."""
STOP_GRACE = 2.0
"""The same for a run that is broken off at the end of a drain."""
FENCE = 0.7
"""Share of a lease after which an unacknowledged supervisor stops runs with effects."""
_START_TIMEOUT = 300.0
_FIRST_DELAY, _LONGEST_DELAY, _YOUNG = 0.5, 30.0, 5.0  # seconds; see _delay_after


@dataclass(frozen=True, slots=True)
class Service:
    """What a worker process serves.

    Attributes:
        load: brings the tasks by identity; called in each child, never here.
        lanes: children, that is, runs at a time.
        drain_seconds: how long runs may go on after the first SIGTERM.
        on_ready: called once with the identities that are served, when the session stands.
    """

    load: child_module.Load
    worker: str
    session: str
    lanes: int
    queue: str
    drain_seconds: float
    on_ready: Callable[[Sequence[str]], None]


class Supervisor:
    """One worker process' parent. ``run`` is its life; use it from the main thread.

    Args:
        backend: its queue is opened after the first children were forked.
    """

    def __init__(self, service: Service, backend: Backend) -> None:
        self._service = service
        self._backend = backend
        self._settings = backend.settings
        self._board = Board(service.lanes)
        self._children: dict[int, Child] = {}
        self._session: Session | None = None
        self._tasks: tuple[str, ...] = ()
        self._untold: list[tuple[int, RunId | None]] = []  # deaths that the queue has not heard of
        self._fork_at: dict[int, float] = {}
        self._fork_delay = 0.0
        self._beat_at = 0.0
        self._renewed_at = 0.0
        self._away = False
        self._stop_signals = 0
        self._order = Order.SERVE
        self._stop_at = float("inf")
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
        """
        before = {name: signal.signal(name, self._on_signal) for name in (signal.SIGTERM, signal.SIGINT)}
        before |= {name: signal.signal(name, self._on_look) for name in (signal.SIGCHLD, children.LOOK)}
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._on_fence)
        try:
            for lane in range(self._service.lanes):
                self._fork(lane)
            if not self._begin():
                return ExitCode.DONE
            while not self._done():
                self._pass()
                self._pause()
            return self._end()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            self._kill_all()
            for name, handler in before.items():
                signal.signal(name, handler)

    # ------------------------------------------------------------------ begin and end

    def _fork(self, lane: int) -> None:
        service = self._service
        main = partial(
            child_module.main, load=service.load, session=service.session, queue=service.queue, board=self._board
        )
        siblings = list(self._children.values())
        self._children[lane] = children.fork(lane, self._board.slots[lane], main, siblings)
        self._board.slots[lane].order = self._order

    def _begin(self) -> bool:
        """Hear from the first children what they serve, open the session, let them go; False: told to stop before."""
        first = list(self._children.values())
        while any(child.silent for child in first):
            children.wait_for_report(first, self._bell, _START_TIMEOUT)
            if self._stop_signals:
                return False
        for child in first:
            if child.tasks is None:
                raise ConfigurationError(f"the tasks cannot be served: {child.problem}")
        self._tasks = first[0].tasks or ()
        service = self._service
        self._session = self._backend.queue.open_session(
            service.worker, self._tasks, service.lanes, queue=service.queue, session=service.session
        )
        self._acknowledged(time.monotonic())
        self._beat_at = self._renewed_at + self._settings.beat_seconds
        for child in first:
            child.go()
        service.on_ready(self._tasks)
        return True

    def _done(self) -> bool:
        return self._order != Order.SERVE and not self._children

    def _end(self) -> int:
        """Close the session: what it still holds goes back, and no lease must pass before others take it."""
        assert self._session is not None
        try:
            self._session.close()
        except QueueUnavailable as error:
            logger.warning("The queue is away; this session ends with its lease: %s", error)
        return ExitCode.HANDED_BACK if self._broken_off else ExitCode.DONE

    def _kill_all(self) -> None:
        for child in self._children.values():
            child.kill()
            os.waitpid(child.pid, 0)
            child.channel.close()
        self._children.clear()

    # ------------------------------------------------------------------ one pass

    def _pass(self) -> None:
        """Everything that is due now."""
        self._drain()
        self._bury()
        self._tell_deaths()
        self._refork()
        now = time.monotonic()
        if now >= self._beat_at:
            self._beat(now)
        self._watch(time.monotonic())

    def _pause(self) -> None:
        """Sleep until something is due: the one place where this process sleeps."""
        due = [self._beat_at, self._stop_at, *self._fork_at.values()]
        due += [child.kill_at for child in self._children.values() if child.kill_at is not None]
        now = time.monotonic()
        if self._board.watched:
            due.append(now + HANGING / 2)
        timeout = max(0.0, min(due) - now)
        assert self._session is not None
        try:
            if self._session.wait(timeout):
                self._beat_at = time.monotonic()  # a cancel, a drain, something due sooner: the renewal tells
        except QueueUnavailable:
            select.select([self._bell], [], [], timeout)
        with contextlib.suppress(BlockingIOError):
            os.read(self._bell, 4096)

    def _on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        self._stop_signals += 1
        self._wake()

    def _on_look(self, _signal: int, _frame: FrameType | None) -> None:
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._ring, b"!")
        if self._session is not None:
            self._session.wake()

    # ------------------------------------------------------------------ the lease

    def _beat(self, now: float) -> None:
        """Renew the lease, and act on what the answer says."""
        assert self._session is not None
        self._beat_at = now + self._settings.beat_seconds
        try:
            renewed = self._session.renew(self._held() if self._away else None)
        except (QueueUnavailable, StoreUnavailable) as error:  # the store: to raise the era of a new start of Redis
            self._away = True
            logger.warning("The lease is not renewed since %.1f s: %s", time.monotonic() - self._renewed_at, error)
            return
        self._away = False
        self._acknowledged(now)  # the time of sending: the lease began no earlier
        if not renewed.alive:
            logger.warning("This session had ended; it was opened anew, and its runs are somebody else's")
            self._look_all()  # who is parked must ask again
        if renewed.drain:
            self._stop_signals = max(self._stop_signals, 1)
            self._drain()
        for session in renewed.reaped:
            logger.warning("Worker session %s was silent for a lease; its runs went back to the queue", session)
        for run_id in renewed.cancelled:
            self._cancel(run_id)
        if renewed.next_due is not None:
            self._beat_at = min(self._beat_at, time.monotonic() + renewed.next_due)

    def _held(self) -> dict[RunId, Token]:
        """Every claim that the board knows."""
        return {run_id: token for child in self._children.values() for run_id, token in child.slot.held()}

    def _acknowledged(self, sent_at: float) -> None:
        """The queue knows this session since ``sent_at``: wind up the fence, an alarm that also rings through a call
        that does not return."""
        self._renewed_at = sent_at
        lease = self._settings.lease_seconds
        left = sent_at + FENCE * lease - time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, max(left, 0.001), lease / 10)

    def _on_fence(self, _signal: int, _frame: FrameType | None) -> None:
        for child in list(self._children.values()):
            executing = child.slot.executing()
            if executing is not None and executing.effect is not EffectClass.PURE and not child.pardoned:
                logger.error("Run %s is broken off: the lease may end, and another be given the run", executing.run_id)
                child.pardoned = True
                child.kill()

    # ------------------------------------------------------------------ children

    def _bury(self) -> None:
        """Note the children that have died, and which run each was executing."""
        for child, code in children.bury(list(self._children.values())):
            del self._children[child.lane]
            executing = child.slot.executing()
            if self._order == Order.SERVE or executing is not None or code != ExitCode.DONE:
                blamed = None if child.pardoned or executing is None else executing.run_id
                self._untold.append((child.lane, blamed))
            if executing is not None:
                logger.error("Executor %d died (%s) in run %s", child.lane, _cause(code), executing.run_id)
            if self._order != Order.SERVE:
                continue
            self._fork_at[child.lane] = time.monotonic() + self._delay_after(child, charged=executing is not None)
            if child.tasks is None:
                logger.error("Executor %d could not start: %s", child.lane, child.problem or _cause(code))

    def _delay_after(self, child: Child, *, charged: bool) -> float:
        """Seconds until the dead child's lane gets a new one: none, unless it died young and of no run."""
        if charged or time.monotonic() - child.born > _YOUNG:
            self._fork_delay = 0.0
        else:
            self._fork_delay = min(max(_FIRST_DELAY, 2 * self._fork_delay), _LONGEST_DELAY)
        return self._fork_delay

    def _tell_deaths(self) -> None:
        """Tell the queue of deaths, in order; what it could not hear is told again at the next pass."""
        while self._untold:
            lane, executing = self._untold[0]
            try:
                self._lane_died(lane, executing)
            except QueueUnavailable as error:
                logger.warning("The queue is away and does not know of a crash yet: %s", error)
                return
            del self._untold[0]

    def _lane_died(self, lane: int, executing: RunId | None) -> None:
        assert self._session is not None
        envelope = b""
        if executing is not None:
            limit = self._settings.max_crashes
            reason = f"its process died {limit} times while executing it; it is quarantined"
            envelope = values.seal_reason(self._backend, reason, executing)
        if self._session.lane_died(lane, executing, envelope):
            logger.error("Run %s is quarantined: it ended its process %d times", executing, self._settings.max_crashes)

    def _refork(self) -> None:
        for child in self._children.values():
            if child.silent:
                child.hear()
                if child.tasks is not None:
                    child.go()
        now = time.monotonic()
        untold = {lane for lane, _ in self._untold}
        for lane in [lane for lane, at in self._fork_at.items() if at <= now and lane not in untold]:
            del self._fork_at[lane]
            self._fork(lane)

    def _watch(self, now: float) -> None:
        """Recall what waits behind a hanging run; kill what was told to end and has not."""
        busy = False
        for child in self._children.values():
            executing = child.slot.executing()
            if child.cancelled and (executing is None or executing.run_id != child.cancelled):
                child.cancelled, child.kill_at = "", None  # the interrupt was enough
            if child.kill_at is not None and now >= child.kill_at:
                child.kill_at, child.pardoned = None, not child.cancelled
                child.kill()
            if executing is None or child.slot.recalled or not child.slot.waiting():
                continue
            busy = True
            if now - executing.since >= HANGING:
                self._recall(child)
        self._board.watched = busy

    def _recall(self, child: Child) -> None:
        """What the child's guard would do, could it run."""
        assert self._session is not None
        child.slot.recalled = True
        try:
            self._session.give_back(child.lane, child.slot.kept())
        except QueueUnavailable as error:
            logger.info("The queue is away; what waits behind a long run waits on: %s", error)

    def _cancel(self, run_id: RunId) -> None:
        """Interrupt the child that executes ``run_id``; one that has not begun it is met by a later renewal."""
        for child in self._children.values():
            executing = child.slot.executing()
            if executing is not None and executing.run_id == run_id and child.cancelled != run_id:
                logger.info("Run %s is cancelled", run_id)
                child.cancelled = child.slot.cancel = run_id
                child.look()
                child.kill_at = time.monotonic() + CANCEL_GRACE

    # ------------------------------------------------------------------ drain

    def _drain(self) -> None:
        """SIGTERM: finish what runs. A second one, or the end of the time: break it off."""
        now = time.monotonic()
        if self._stop_signals and self._order == Order.SERVE:
            logger.info("Draining: runs have %.0f s to finish", self._service.drain_seconds)
            self._stop_at = now + self._service.drain_seconds
            self._fork_at.clear()
            self._give_order(Order.DRAIN)
            try:
                assert self._session is not None
                self._session.drain()
            except QueueUnavailable as error:
                logger.warning("The queue is away and does not know of the drain: %s", error)
        if self._order == Order.DRAIN and (self._stop_signals > 1 or now >= self._stop_at):
            self._stop_at = float("inf")
            self._broken_off = any(child.slot.executing() for child in self._children.values())
            self._give_order(Order.STOP)
            for child in self._children.values():
                child.cancelled, child.kill_at = "", now + STOP_GRACE

    def _give_order(self, order: Order) -> None:
        self._order = order
        for child in self._children.values():
            child.slot.order = order
            child.slot.recalled = True
        self._look_all()

    def _look_all(self) -> None:
        for child in self._children.values():
            child.look()


def _cause(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
