"""The straight line of a background run: claim, run, commit. The main thread of an executor child.

One script of the queue finishes what is done and claims what is next. While short runs come in full batches, the next
claim is under way during the batch (two steps in flight); a long run hands its outcome in before anything else is
claimed. ``guard`` watches from a second thread, the supervisor from outside; both *recall*: they give back what this
lane has not begun, and the executor drops it when it next looks. An outcome that the store does not take waits in the
``spool``; a run whose arguments cannot be read goes back for a while.

Knows no process and no signal of its own: ``child`` wires those.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from kapstan.engine.background import BackgroundEngine, RetryLater
from kapstan.errors import BackendError, ConfigurationError, HandBack
from kapstan.ids import RunId
from kapstan.ports import Claim, Lane, Outcome, Stepped, Want
from kapstan.states import EffectClass
from kapstan.worker.board import MAX_BATCH, Order, Slot
from kapstan.worker.pace import Pace
from kapstan.worker.spool import Spool

logger = logging.getLogger("kapstan.worker")

TROUBLE = (BackendError, ConfigurationError)
"""What queue and store raise when they cannot be used now; a password that was changed is no reason to end a run."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds for which a run goes back whose arguments cannot be read
_BREATH, _LONGEST_BREATH = 0.05, 1.0  # seconds between two tries at a queue that refuses at once


class Executor:
    """Executes runs of one lane, one at a time, until it is ordered to leave.

    Args:
        lane: this child's line to the queue; used by this thread only.
        engine: turns a claim into an outcome.
        slot: this child's place on the board.
        on_batch: called when more than one run was claimed, before the first of them begins.
        end_helpers: ends the processes that a run has started and left behind; whether there were any.
        batches: whether short runs are claimed many at a time.

    Attributes:
        replace: this process must not go on: a run that was broken off had started others, and what else it has left
            behind nobody knows.
    """

    def __init__(
        self,
        lane: Lane,
        engine: BackgroundEngine,
        slot: Slot,
        on_batch: Callable[[], None],
        end_helpers: Callable[[], bool],
        *,
        batches: bool = True,
    ) -> None:
        self._lane = lane
        self._engine = engine
        self._slot = slot
        self._inline_bytes = engine.inline_bytes
        self._on_batch = on_batch
        self._end_helpers = end_helpers
        self.replace = False
        self._pace = Pace()
        self._batches = batches
        self._unreadable: tuple[float, float] = (0.0, 0.0)  # since when, and until when it counts as one outage
        self.spool = Spool(engine.stored, slot)
        self._sent: list[Outcome] | None = None  # of the step that is under way; None: none is
        self._asked: Mapping[str, int] = {}
        self._begun = ""  # the run that goes back although it was begun
        self.outcomes: deque[Outcome] = deque()
        """Finished and not handed in. This thread appends; whoever holds ``lock`` hands in and removes."""
        self.lock = threading.Lock()
        """Held by whoever hands in outcomes or gives back."""

    def run(self) -> None:
        """Claim and execute until the supervisor orders to leave; then everything that is held is finished or back."""
        breath = _BREATH
        while self._slot.order == Order.SERVE and not self.replace:
            try:
                if self._slot.recalled:
                    self._settle()
                self._execute(self._claim())
                breath = _BREATH
            except TROUBLE as error:
                logger.warning("The queue is away; this lane keeps its outcomes and tries again: %s", error)
                self._slot.recalled = True  # a reply was lost: what it brought is held, but unknown here
                time.sleep(breath)
                breath = min(2 * breath, _LONGEST_BREATH)
        self._leave()

    @property
    def step_under_way(self) -> bool:
        """Whether runs may have been claimed that this process has not heard of yet."""
        return self._sent is not None

    # ------------------------------------------------------------------ claim

    def _claim(self) -> list[Claim]:
        """The next batch; blocks until there is one, or until the lane is woken ([] then)."""
        claims = self._read().claims if self._sent is not None else []
        if not claims and not self._batches:
            return self._step(1).claims or self._lane.wait(None)
        if not claims:
            self._asked = self._pace.most
            claims = self._step(self._asked).claims
        if not claims:
            self._asked = {}
            return self._lane.wait(None)
        if not self._batches:
            return claims
        first = claims[0]  # tells of all: a run that is not brisk, or not pure, comes alone
        if (
            len(claims) >= self._asked.get(first.task, 1)
            and first.effect is EffectClass.PURE
            and self._pace.brisk(first.task)
        ):
            self._send(self._pace.most)
        elif self.outcomes:
            self._step(0)
        return claims

    def _step(self, want: Want) -> Stepped:
        """Hand in the outcomes and claim what ``want`` says."""
        with self.lock:
            outcomes = list(self.outcomes)
            stepped = self._lane.step(outcomes, want)
            self.outcomes.clear()
        report_lost(stepped.lost)
        return stepped

    def _send(self, want: Mapping[str, int]) -> None:
        """As ``_step``, without waiting for the answer."""
        with self.lock:
            self._asked = want
            outcomes = list(self.outcomes)
            self._lane.send_step(outcomes, want)
            self._sent = outcomes
            self.outcomes.clear()

    def _read(self) -> Stepped:
        """The answer to ``_send``; if it is lost, the outcomes are kept (a repeated commit is recognised)."""
        sent, self._sent = self._sent or [], None
        try:
            stepped = self._lane.read_step()
        except TROUBLE:
            with self.lock:
                self.outcomes.extendleft(reversed(sent))
            raise
        report_lost(stepped.lost)
        return stepped

    # ------------------------------------------------------------------ run

    def _execute(self, claims: Sequence[Claim]) -> None:
        """Run ``claims`` in order, until done or recalled."""
        if not claims:
            return
        unacknowledged = [*(self._sent or ()), *self.outcomes][-MAX_BATCH:]
        slot, run, outcomes, clock = self._slot, self._engine.run, self.outcomes, time.monotonic
        slot.load([*unacknowledged, *claims], len(unacknowledged), under_way=self.step_under_way)
        if len(claims) > 1 or self.step_under_way:
            self._on_batch()
        task, runs, longest, begun = claims[0].task, 0, 0.0, clock()
        position, at, tells = len(unacknowledged), begun, logger.isEnabledFor(logging.DEBUG)
        try:
            for claim in claims:
                if claim.task != task:  # runs of one task follow each other
                    self._pace.observe(task, at - begun, runs, longest)
                    task, runs, longest, begun = claim.task, 0, 0.0, at
                slot.begin(position, claim.effect, at)
                if slot.recalled:
                    break
                try:
                    outcome = run(claim)
                except TROUBLE as error:
                    slot.rest()
                    self._postpone(claim, error)
                    position, at = position + 1, clock()
                    continue
                if type(outcome) is Outcome:
                    if len(outcome.envelope) > self._inline_bytes or self._engine.must_store:
                        outcome = self._stored(outcome, position)
                    outcomes.append(outcome)
                else:
                    self._retry(outcome)
                if type(outcome) is not Outcome or outcome.state != "completed":
                    self._end_what_it_started(claim, outcome, clock() - at)
                position += 1
                runs += 1
                before, at = at, clock()
                if at - before > longest:
                    longest = at - before
                if tells:
                    _tell(claim, outcome, at - before)
        except HandBack as error:
            self._begun = claims[position - len(unacknowledged)].run_id
            logger.warning("Run %s goes back to the queue: %s", self._begun, error)
            slot.recalled = True
        slot.rest()  # not when anything else is raised, such as sys.exit() of a task: that is charged as a crash
        if runs:
            self._pace.observe(task, at - begun, runs, longest)

    def _stored(self, outcome: Outcome, position: int) -> Outcome:
        """``outcome`` with its value in the store. Its effect is done: nothing is gained by a kill meanwhile."""
        self._slot.begin(position, EffectClass.PURE, time.monotonic())
        return self.spool.stored(outcome)

    def _end_what_it_started(self, claim: Claim, outcome: Outcome | RetryLater, seconds: float) -> None:
        """A run that was cancelled, or took longer than its limit, takes its processes with it."""
        limit = self._engine.time_limit(claim.task)
        cancelled = self._slot.cancel == claim.run_id or (type(outcome) is Outcome and outcome.state == "cancelled")
        if (cancelled or (limit is not None and seconds >= limit)) and self._end_helpers():
            logger.warning("Run %s was broken off and had started processes; this executor is replaced", claim.run_id)
            self.replace = self._slot.recalled = True

    def _retry(self, later: object) -> None:
        """Tell the queue, however long it is away: a run that failed is not to be repeated as if it had not."""
        assert isinstance(later, RetryLater)
        while True:
            try:
                if not self._lane.retry(later.run_id, later.token, later.delay, counted=later.counted):
                    report_lost([later.run_id])
                return
            except TROUBLE as error:
                if self._slot.order == Order.STOP:
                    raise
                logger.warning("The queue is away; the retry of run %s waits: %s", later.run_id, error)
                time.sleep(_BREATH)

    def _postpone(self, claim: Claim, error: Exception) -> None:
        """Give ``claim`` back for a while, unexecuted: its arguments cannot be read. The longer that lasts, the longer
        each run goes."""
        now = time.monotonic()
        since, until = self._unreadable
        if now > until:
            since = now
        pause = min(max(now - since, _FIRST_PAUSE), _LONGEST_PAUSE)
        self._unreadable = since, now + 2 * pause
        logger.warning("Run %s goes back for %.0f s, its arguments cannot be read: %s", claim.run_id, pause, error)
        if not self._lane.retry(claim.run_id, claim.token, pause, counted=False):
            report_lost([claim.run_id])

    # ------------------------------------------------------------------ recalled

    def _settle(self) -> None:
        """Hand in what is finished, give back the rest: what was recalled, and what a lost reply had brought."""
        if self._sent is not None:
            self._read()  # its claims are held unbegun, as the others
        if self.outcomes:
            self._step(0)
        with self.lock:
            self._lane.give_back_all(self._begun)
            self._begun = ""
            if self._slot.order == Order.SERVE:
                self._slot.recalled = False

    def _leave(self) -> None:
        """Settle, however long the queue is away: the supervisor decides when that is too long."""
        while True:
            try:
                return self._settle()
            except TROUBLE as error:
                logger.warning("The queue is away; %d outcomes wait to be handed in: %s", len(self.outcomes), error)
                time.sleep(_BREATH)


def _tell(claim: Claim, outcome: Outcome | RetryLater, seconds: float) -> None:
    ended = outcome.state if type(outcome) is Outcome else "to be retried"
    logger.debug("Run %s of %s: %s after %.3f s", claim.run_id, claim.task, ended, seconds)


def report_lost(lost: Sequence[RunId]) -> None:
    """Say that outcomes were dropped because the runs are no longer ours."""
    for run_id in lost:
        logger.warning("LOST: run %s is no longer this worker's; its outcome is dropped", run_id)
