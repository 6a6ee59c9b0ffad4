"""What a flow run does while its store takes nothing, or gives nothing: it waits, for as long as it takes. What was
computed is kept in memory until it is stored, and nothing is executed because it could not be read.

The wait ends when the run must (SIGTERM, Ctrl-C, a cancel, a time limit, another attempt). A store that is *unsafe*,
which no time heals, is never waited for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from kapstan import states
from kapstan.engine import limits
from kapstan.engine.operations import Write
from kapstan.engine.pending import Pending
from kapstan.errors import BackendError, Fenced, JournalLost, StoreUnsafe

if TYPE_CHECKING:
    from kapstan.engine.flow_run import FlowRun
    from kapstan.ids import RunId
    from kapstan.journal import TaskOutcome

T = TypeVar("T")
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 10.0
"""Seconds between two tries."""


def waited_for(flow: FlowRun, what: str, ask: Callable[[], T], end: float | None = None) -> T:
    """What ``ask`` returns, once the store (or the queue) answers; ``what`` begins the log line meanwhile.

    Args:
        end: of patience, by the monotonic clock.

    Raises:
        BackendError: the store is unsafe, the run was to end already, or ``end`` is over.
        BaseException: why the run must end now.
    """
    delay = _FIRST_WAIT
    while True:
        try:
            return ask()
        except BackendError as error:
            left = _LONGEST_WAIT if end is None else end - time.monotonic()
            if not _heals(flow, error) or left <= 0:
                raise
            flow.logger.warning("%s; waiting: %s", what, error)
        ending, flow.ending = flow.ending, False  # whoever waits may be interrupted, also at the end of the run
        try:
            limits.sleep(min(delay, left))
            flow.check_stopped()
        finally:
            flow.ending = ending
        delay = min(2 * delay, _LONGEST_WAIT)


def post(flow: FlowRun, outcome: TaskOutcome, stored: Callable[[], object], delay: float = _FIRST_WAIT) -> None:
    """Leave ``outcome`` to the journal; ``stored`` is called once it is there, or cannot be and the run must end."""

    def on_answer(error: BaseException | None) -> None:
        if isinstance(error, BackendError) and _heals(flow, error):
            flow.logger.warning("%s; waiting: %s", not_taken(outcome.name), error)
            again = threading.Timer(delay, post, (flow, outcome, stored, min(2 * delay, _LONGEST_WAIT)))
            again.daemon = True
            again.start()
            return
        if error is not None:
            flow.stop(lost(flow, error) if isinstance(error, BackendError) else error)
        stored()

    try:
        flow.journal.post(outcome, on_answer)
    except (Fenced, ValueError) as error:  # ValueError: closed meanwhile
        on_answer(error)


class LargeWrite(Write):
    """Puts the value of an outcome into a storage and what refers to it into the journal, on an event loop by a thread
    of the backend. The run does not end before that: also when nobody waits for it any more.

    Args:
        stored: stores what is to be stored and gives the outcome; called again while the storage does not take it.
    """

    __slots__ = ("_flow", "_inside", "_name", "_run_id", "_stored")

    def __init__(
        self, flow: FlowRun, run_id: RunId, name: str, stored: Callable[[], TaskOutcome], inside: RunId | None
    ) -> None:
        super().__init__(self._now, self._later)
        self._flow = flow
        self._run_id = run_id
        self._name = name
        self._stored = stored
        self._inside = inside

    def _now(self) -> None:
        kept, flow = self._kept(), self._flow
        flow.written(not_taken(self._name), lambda: flow.journal.append(kept))

    def _later(self, stored: Callable[[], object]) -> None:
        pending = Pending(self._run_id)
        self._flow.track(pending)

        def ended() -> None:
            pending.finish(states.Completed())
            stored()

        def write() -> None:
            try:
                kept = self._kept()
            except BaseException as error:  # noqa: BLE001  (the flow is told)
                self._flow.stop(error)
                ended()
            else:
                post(self._flow, kept, ended)

        self._flow.backend.later(write)

    def _kept(self) -> TaskOutcome:
        """The outcome, of which what is large is in a storage now."""
        kept = self._flow.written(not_taken(self._name), self._stored)
        self._flow.memo.keep(kept, self._inside)
        return kept


def not_taken(name: str) -> str:
    return f"The store does not take the outcome of run '{name}' now"


def lost(flow: FlowRun, error: BaseException) -> JournalLost:
    """What ends this attempt where its records are not stored: the cause, and the way on."""
    way_on = f"When the store takes writes again, go on with: kapstan flow-run resume {flow.run_id}"
    return JournalLost(f"flow run '{flow.name}' cannot record what it does and ends here: {error}. {way_on}")


def _heals(flow: FlowRun, error: BackendError) -> bool:
    return not isinstance(error, StoreUnsafe) and flow.stopped is None
