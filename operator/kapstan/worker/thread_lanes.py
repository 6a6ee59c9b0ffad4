"""Executors on threads, and the thread that supervises them: the worker of a process that has something else to do.

Each lane is the same ``Executor`` as a worker's, on a thread instead of in a child process; the supervising thread
keeps the lease, interrupts runs that are cancelled, and breaks off runs with effects when the lease may end. A run that
waits for another run lets a further lane take its place meanwhile, so that runs that submit runs and wait for them
always end.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial

from kapstan import run_limits
from kapstan.backend import Backend
from kapstan.engine import limits
from kapstan.engine.background import BackgroundEngine, RetryLater
from kapstan.engine.limits import Limit
from kapstan.engine.waiting import belongs_to
from kapstan.errors import CancelRun, HandBack
from kapstan.ids import RunId, Token
from kapstan.logging import set_up
from kapstan.ports import Claim, Lane, Outcome, Session
from kapstan.specs import TaskSpec
from kapstan.states import EffectClass
from kapstan.worker.board import Board, Order
from kapstan.worker.deaths import Deaths
from kapstan.worker.executor import TROUBLE, Executor
from kapstan.worker.lease import FENCE

logger = logging.getLogger("kapstan.worker")
_MOST_EXPECTED = 100_000
_STOP_SECONDS = 2.0
"""How long ``stop`` waits for runs that it has interrupted."""


class ThreadLanes:
    """A session, its executors and its supervising thread.

    Args:
        specs: what may run, by identity.
        tasks: the identities to claim; more than ``specs`` where single runs have specs of their own.
        lanes: runs at a time.
        before: lanes that these take the place of; runs that those expected are expected here.
    """

    def __init__(
        self,
        backend: Backend,
        specs: Mapping[str, TaskSpec],
        tasks: set[str],
        lanes: int,
        queue: str,
        before: ThreadLanes | None = None,
    ) -> None:
        set_up()
        self.backend = backend
        self.specs = dict(specs)
        self.expected: dict[RunId, TaskSpec] = before.expected if before is not None else {}
        self._tasks = sorted(tasks)
        self._served = [(task, queue) for task in self._tasks]
        self._numbers: set[int] = set()  # in use
        self._lock = threading.Lock()
        self._lanes: list[_Lane] = []
        self._wanted = lanes
        self._order = Order.SERVE
        self.deaths = Deaths(backend, "its lane")
        self._left_alone = False  # what still runs does not let itself be broken off
        self._session: Session = backend.queue.open_session(
            queue, self._served, lanes, limits={task: run_limits.of(spec) for task, spec in self.specs.items()}
        )
        self._supervisor = threading.Thread(target=self._supervise, name="kapstan-background", daemon=True)
        self._fill()
        self._supervisor.start()

    def serves(self, identity: str) -> bool:
        return identity in self._tasks

    def expect(self, run_id: RunId, spec: TaskSpec) -> None:
        """Run ``run_id`` is of exactly this function and these options."""
        if self.specs.get(spec.identity) is not spec:
            self.expected[run_id] = spec
            while len(self.expected) > _MOST_EXPECTED:  # the oldest were executed by other processes of the application
                self.expected.pop(next(iter(self.expected)), None)

    def retire(self) -> None:
        """Claim no more; what runs is finished, and the session ends after it."""
        self._give_order(Order.DRAIN)

    def stop(self) -> None:
        """Break off what runs and give everything back; what does not let itself be broken off is left running."""
        self._give_order(Order.STOP)
        deadline = time.monotonic() + _STOP_SECONDS
        with self._lock:
            lanes = list(self._lanes)
        for lane in lanes:
            lane.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            self._left_alone = True
        self._session.wake()
        self._supervisor.join(_STOP_SECONDS)

    def _close(self) -> None:
        """End the session: what it still holds goes back, and no lease must pass before others take it."""
        try:
            self._session.close()
        except TROUBLE as error:
            logger.warning("The background of this process ends without the queue: %s", error)

    @contextmanager
    def without_place(self) -> Generator[None]:
        """See ``engine.waiting``: a further lane serves while this thread waits."""
        spare = self._add(spare=True)
        try:
            yield
        finally:
            if spare is not None:
                spare.obey(Order.DRAIN)

    # ------------------------------------------------------------------ lanes

    def _fill(self) -> None:
        """As many lanes as there shall be, also after an outage in which one could not be opened."""
        with self._lock:
            there = sum(not lane.spare for lane in self._lanes)
        for _ in range(self._wanted - there):
            if self._add() is None:
                return

    def _add(self, *, spare: bool = False) -> _Lane | None:
        """One more lane; None if there is no queue for it, or the lanes are to leave."""
        with self._lock:
            if self._order != Order.SERVE:
                return None
            # The lowest that is free: the queue keeps a field for each. One whose lane died is free when that is told.
            taken = self._numbers | self.deaths.lanes
            number = next(number for number in itertools.count() if number not in taken)
            self._numbers.add(number)
        try:
            line = self.backend.queue.open_lane(self._session.name, number, self._served)
        except TROUBLE as error:
            logger.warning("The queue is away; a lane of this process is opened later: %s", error)
            with self._lock:
                self._numbers.discard(number)
            return None
        lane = _Lane(self, number, line, spare=spare)
        with self._lock:
            lane.start()
            self._lanes.append(lane)
            order = self._order
        if order != Order.SERVE:  # given while this lane was opened
            lane.obey(order)
        return lane

    def left(self, lane: _Lane, died: bool) -> None:
        """``lane`` has ended, and the queue is told. After the last the session ends. For one that died another is
        opened at the next beat: at once would be without a pause where lanes die as they begin."""
        with self._lock:
            self._lanes.remove(lane)
            self._numbers.discard(lane.number)
            last = not self._lanes
        if last or not died:
            self._session.wake()

    def _give_order(self, order: Order) -> None:
        with self._lock:
            self._order = order
            lanes = list(self._lanes)
        for lane in lanes:
            lane.obey(order)
        self._session.wake()

    # ------------------------------------------------------------------ the supervising thread

    def _supervise(self) -> None:
        """Renew the lease until the last lane has left, or is left alone."""
        beat = self.backend.settings.beat_seconds
        acknowledged, away = time.monotonic(), False
        while True:
            with self._lock:
                lanes = list(self._lanes)
                if self._left_alone or (not lanes and self._order != Order.SERVE):
                    break
            now, due = time.monotonic(), beat
            try:
                renewed = self._session.renew(self._recalled(lanes) if away else None)
                if away:
                    for lane in lanes:
                        lane.line.wake()  # who was recalled settles
                acknowledged, away = now, False
                self.deaths.tell(self._session)
                self._fill()
                if renewed.next_due is not None:
                    due = min(beat, renewed.next_due)
                for lane in lanes:
                    lane.cancel(renewed.cancelled)
                    if not renewed.alive:
                        lane.recalled()
                        lane.line.wake()  # it begins nothing of what it was given before, and asks again
            except TROUBLE as error:
                away = True
                logger.warning("The background of this process cannot renew its lease: %s", error)
            if time.monotonic() - acknowledged >= FENCE * self.backend.settings.lease_seconds:
                for lane in lanes:
                    lane.fence()
            self._wait(max(due, 0.001), beat)
        self._close()

    @staticmethod
    def _recalled(lanes: list[_Lane]) -> dict[RunId, Token]:
        """Every claim that these lanes know: after an outage what the queue shows beyond goes back. They are recalled
        first, so that none begins what it reads only now."""
        return {run_id: token for lane in lanes for run_id, token in lane.recalled()}

    def _wait(self, due: float, beat: float) -> None:
        try:
            self._session.wait(due)
        except TROUBLE:
            time.sleep(min(due, beat))


class _Lane(threading.Thread):
    """One executor on a thread."""

    def __init__(self, lanes: ThreadLanes, number: int, line: Lane, *, spare: bool) -> None:
        super().__init__(name=f"kapstan-background-{number}", daemon=True)
        self.spare = spare
        self.number = number
        self._all = lanes
        self.line = line
        self._slot = Board(1).slots[0]
        self._engine = _Engine(lanes)
        self._executor = Executor(line, self._engine, self._slot, _nothing, _no_helpers, batches=False)

    def run(self) -> None:
        belongs_to(self._all)
        blamed: RunId | None = None
        died = False
        try:
            self._executor.run()
        except BaseException:
            logger.exception("A lane of this process' background ended")
            executing = self._slot.executing()
            blamed, died = None if executing is None else executing.run_id, True
        finally:
            self._engine.close()
            self.line.close()
            # Told of one that leaves, too: in an outage it may have been handed a run that it has not given back.
            self._all.deaths.add(self.number, blamed)
            self._all.left(self, died)

    def obey(self, order: Order) -> None:
        self._slot.order = order
        if order == Order.STOP:
            self._interrupt(HandBack)
        self.line.wake()

    def recalled(self) -> list[tuple[RunId, Token]]:
        self._slot.recalled = True
        return self._slot.held()

    def cancel(self, cancelled: list[RunId]) -> None:
        """Interrupt the run that executes, if it is one of ``cancelled``."""
        executing = self._slot.executing()
        if executing is not None and executing.run_id in cancelled:
            self._slot.cancel = executing.run_id
            self._engine.interrupt_run(executing.run_id, CancelRun)

    def fence(self) -> None:
        """The lease may end: break off a run with an effect, which somebody else may be given."""
        executing = self._slot.executing()
        if executing is not None and executing.effect is not EffectClass.PURE:
            logger.error("Run %s is broken off: the lease may end, and another be given the run", executing.run_id)
            self._engine.interrupt_run(executing.run_id, HandBack)

    def _interrupt(self, error: type[BaseException]) -> None:
        executing = self._slot.executing()
        if executing is not None:
            self._engine.interrupt_run(executing.run_id, error)


class _Engine(BackgroundEngine):
    """As ``BackgroundEngine``, for a thread: its runs are interrupted from other threads, and may have specs of their
    own."""

    def __init__(self, lanes: ThreadLanes) -> None:
        super().__init__(lanes.specs, lanes.backend, lanes.expected)
        self._expected = lanes.expected
        self._running: tuple[RunId, Limit] | None = None

    def run(self, claim: Claim) -> Outcome | RetryLater:
        try:
            done = limits.interruptible(partial(super().run, claim), partial(self._begun, claim.run_id))
        except CancelRun:
            done = Outcome(claim.run_id, claim.token, "cancelled", b"")
        finally:
            self._running = None
        if type(done) is Outcome:
            self._expected.pop(claim.run_id, None)
        return done

    def _begun(self, run_id: RunId, limit: Limit) -> None:
        self._running = run_id, limit

    def interrupt_run(self, run_id: RunId, error: type[BaseException]) -> None:
        running = self._running
        if running is not None and running[0] == run_id:
            limits.interrupt(running[1], error)


def _nothing() -> None:
    """Lanes that claim one run at a time have no batches."""


def _no_helpers() -> bool:
    """Processes that a run started belong to the application."""
    return False
