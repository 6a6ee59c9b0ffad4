"""The executor children of one worker, one per lane: forks, hears, ends, reaps and replaces them.

Used by the supervisor only. A death is reported to the queue with the run that the child was executing, which is
charged with a crash; a new child takes the lane after that.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from kapstan.backend import Backend
from kapstan.errors import ConfigurationError
from kapstan.ids import RunId, Token
from kapstan.ports import Session
from kapstan.states import ExitCode
from kapstan.worker import child as child_module
from kapstan.worker import children
from kapstan.worker.board import Board, Order
from kapstan.worker.children import Child
from kapstan.worker.deaths import Deaths, cause_of
from kapstan.worker.descendants import Adopted, adopt
from kapstan.worker.recall import order_memory

logger = logging.getLogger("kapstan.worker")

_START_TIMEOUT = 300.0
_MOST_SPARES = 64
"""Further children at a time, for runs that wait for runs."""
_FIRST_DELAY, _LONGEST_DELAY, _YOUNG = 0.5, 30.0, 5.0  # seconds; see _delay_after


@dataclass(frozen=True, slots=True)
class Service:
    """What a worker process serves.

    Attributes:
        load: brings the tasks by identity; called in each child, never here.
        lanes: children, that is, runs at a time.
        queues: from which queues it claims; none: see ``child.routes``.
        drain_seconds: how long runs may go on after the first SIGTERM.
        patience: for how many seconds it waits at its start for a queue or a store that is away.
        on_ready: called once with (task, queue) of all that is served, when the session stands.
        on_drain: called once when nothing more is claimed.
    """

    load: child_module.Load
    worker: str
    session: str
    lanes: int
    queues: Sequence[str]
    drain_seconds: float
    patience: float
    on_ready: Callable[[Sequence[tuple[str, str]]], None]
    on_drain: Callable[[], None]


class Lanes:
    """The children of one supervisor. Made before the first fork.

    Attributes:
        order: what the children are ordered to do.
    """

    def __init__(self, service: Service, backend: Backend) -> None:
        self._service = service
        self._backend = backend
        self.board = Board(service.lanes + _MOST_SPARES)
        self.order = Order.SERVE
        self._children: dict[int, Child] = {}
        self._deaths = Deaths(backend, "its process")
        self._fork_at: dict[int, float] = {}
        self._fork_delay = 0.0
        self._adopted = Adopted()

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self._children.values()))

    def __bool__(self) -> bool:
        return bool(self._children)

    @property
    def due(self) -> list[float]:
        """Monotonic times at which a lane gets a new child, or a child is killed."""
        return [*self._fork_at.values(), *(child.kill_at for child in self if child.kill_at is not None)]

    def recalled(self) -> dict[RunId, Token]:
        """Recall every child; every claim that the board knows. What it does not know yet (an answer or a message that
        a child has not read) will not begin."""
        for child in self:
            child.slot.recalled = True
        order_memory()
        return {run_id: token for child in self for run_id, token in child.slot.held()}

    # ------------------------------------------------------------------ begin and end

    def begin(self, bell: int, stopped: Callable[[], bool]) -> Child | None:
        """Fork the first children; one of them, which has said what all serve; None: ``stopped`` before they had said.
        ``bell`` is rung when it is time to ask.

        Raises:
            ConfigurationError: the tasks could not be loaded, with the reason.
        """
        adopt()
        for lane in range(self._service.lanes):
            self._fork(lane)
        first = list(self)
        while any(child.silent for child in first):
            children.wait_for_report(first, bell, _START_TIMEOUT)
            if stopped():
                return None
        for child in first:
            if child.served is None:
                raise ConfigurationError(f"the tasks cannot be served: {child.problem}")
        return first[0]

    def go(self) -> None:
        """The session stands: those that have reported may claim."""
        for child in self:
            if child.silent:
                child.hear()
            if child.served is not None:
                child.go()

    def kill_all(self) -> None:
        """End every child and what it has started."""
        for child in self:
            child.kill()
            os.waitpid(child.pid, 0)
            child.channel.close()
            self._adopted.end(self._pids(), child.mark)
        self._children.clear()
        adopt(begin=False)

    def give_order(self, order: Order) -> None:
        self.order = order
        if order != Order.SERVE:
            self._fork_at.clear()
        for child in self:
            child.slot.order = order
            child.slot.recalled = True
        self.look()

    def look(self) -> None:
        """Make every child look at the board."""
        for child in self:
            child.look()

    def wake_idle(self) -> None:
        """As ``look``, for those that execute nothing. A signal may end up unheard: where others come with it (a
        SIGTERM for the whole group), the kernel may give it to another thread than the one that waits."""
        for child in self:
            if child.slot.executing() is None:
                child.look()

    def settle_spares(self) -> None:
        """As many further children as children wait for other runs: a run that submits runs and waits for them always
        ends."""
        if self.order != Order.SERVE:
            return
        waiting = sum(child.slot.waits for child in self)
        serving = [child for child in self if self._is_spare(child.lane) and child.slot.order == Order.SERVE]
        for child in serving[waiting:]:
            child.slot.order = Order.DRAIN
            child.slot.recalled = True
            child.look()
        free = [lane for lane in range(self._service.lanes, len(self.board.slots)) if lane not in self._children]
        for lane in free[: max(0, waiting - len(serving))]:
            self._fork(lane)

    def _is_spare(self, lane: int) -> bool:
        return lane >= self._service.lanes

    def _fork(self, lane: int) -> None:
        service = self._service
        main = partial(
            child_module.main, load=service.load, session=service.session, queues=service.queues, board=self.board
        )
        self._children[lane] = children.fork(lane, self.board.slots[lane], main, list(self))
        self.board.slots[lane].order = self.order

    def _pids(self) -> list[int]:
        return [child.pid for child in self]

    # ------------------------------------------------------------------ deaths

    def bury(self) -> None:
        """Note the children that have died, and which run each was executing; end what they have left behind."""
        self._adopted.look(self._pids())
        for child, code in children.bury(list(self)):
            del self._children[child.lane]
            if code != ExitCode.DONE:
                self._adopted.end(self._pids(), child.mark)
            self._note(child, code)

    def _note(self, child: Child, code: int) -> None:
        executing = child.slot.executing()
        lines = [] if executing is None else child.slot.last_lines(executing.run_id)
        self._deaths.seen(child.mark, cause_of(code), lines)
        if self.order == Order.SERVE or executing is not None or code != ExitCode.DONE:
            blamed = None if child.pardoned or executing is None else executing.run_id
            self._deaths.add(child.lane, blamed)
        if executing is not None:
            logger.error("Executor %d died (%s) in run %s", child.lane, cause_of(code), executing.run_id)
        if self.order != Order.SERVE or self._is_spare(child.lane):
            return
        replaced = code == children.REPLACE
        delay = self._delay_after(child, charged=executing is not None or replaced)
        self._fork_at[child.lane] = time.monotonic() + delay
        if child.served is None:
            logger.error("Executor %d could not start: %s", child.lane, child.problem or cause_of(code))

    def _delay_after(self, child: Child, *, charged: bool) -> float:
        """Seconds until the dead child's lane gets a new one: none, unless it died young and of no run."""
        if charged or time.monotonic() - child.born > _YOUNG:
            self._fork_delay = 0.0
        else:
            self._fork_delay = min(max(_FIRST_DELAY, 2 * self._fork_delay), _LONGEST_DELAY)
        return self._fork_delay

    def tell_deaths(self, session: Session) -> None:
        """Report deaths to the queue, in order; what did not reach it is reported again at the next pass."""
        self._deaths.tell(session)

    def refork(self) -> None:
        """Let those go that have reported, and fork the children whose time has come."""
        for child in self:
            if child.silent:
                child.hear()
                if child.served is not None:
                    child.go()
        now = time.monotonic()
        untold = self._deaths.lanes
        for lane in [lane for lane, at in self._fork_at.items() if at <= now and lane not in untold]:
            del self._fork_at[lane]
            self._fork(lane)
