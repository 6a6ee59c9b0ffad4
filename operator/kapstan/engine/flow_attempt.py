"""What one attempt of a flow run reads and records. Driven by ``flow_engine``."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from kapstan.engine import definition, ended, outages, returns, values
from kapstan.engine.control_flow import ends_the_caller
from kapstan.engine.definition import Definition
from kapstan.engine.flow_run import FlowRun
from kapstan.engine.keeping import keeping
from kapstan.engine.limits import TimeUp
from kapstan.engine.run_index import RunIndex
from kapstan.errors import (
    BackendError,
    CancelRun,
    Fenced,
    HandBack,
    JournalLost,
    ParameterError,
    Parked,
    SerializationError,
)
from kapstan.journal import AttemptEnd, Journal, Retry, TaskOutcome, after_retry, read_journal
from kapstan.logging import set_up, told_of
from kapstan.ports import Doubt
from kapstan.runs.records import result_ref
from kapstan.states import AttemptOutcome, Paused, State, StateType

T = TypeVar("T")
logger = logging.getLogger("kapstan.engine")

_ENDS = {StateType.COMPLETED: AttemptOutcome.COMPLETED, StateType.CANCELLED: AttemptOutcome.CANCELLED}
_EARLY: dict[type[BaseException], tuple[AttemptOutcome, str, str]] = {
    CancelRun: (AttemptOutcome.CANCELLED, "CANCELLED", "Cancelled"),
    Parked: (AttemptOutcome.SUSPENDED, "PAUSED", "Parked"),
}
"""Ends of an attempt that was broken off, other than HandedBack: in the journal, type and name of the state."""


class FlowAttempt:
    """What one attempt of a flow run reads and records: its opening, its retries, its end. Blocking."""

    def __init__(self, flow: FlowRun) -> None:
        self._flow = flow
        self._backend = flow.backend
        self._index = RunIndex(flow.backend)
        self._retries = 0
        self._started = time.time()

    # ------------------------------------------------------------------ begin

    def open(self, attempt: int | None, again: bool) -> State | TaskOutcome | None:
        """Take the run over. If it has ended already, how it ended: no attempt is needed. Else None.

        Raises:
            Fenced: this attempt or a later one has begun.
            JournalLost: the journal cannot be read or opened.
        """
        set_up()
        flow = self._flow
        known = self._answered(f"whether flow run {flow.run_id} has ended cannot be read", self._known)
        if known is not None:
            return known
        if flow.parent is not None:
            flow.parent.logger.info("Created subflow run for flow '%s'", flow.spec.name)
        else:
            if attempt in (None, 1):
                logger.info("Created flow run '%s' for flow '%s'", flow.name, flow.spec.name)
            # Of a run that the operator does not have: another process goes on with it by what stands there.
            if attempt is None or (attempt == 1 and flow.spec.entrypoint and not flow.deployment):
                self._answered(f"the definition of flow run {flow.run_id} cannot be stored", self._define)
        self._answered(
            f"the journal of flow run {flow.run_id} cannot be opened", lambda: self._take_over(attempt, again)
        )
        self._save("RUNNING", "Running")
        return None

    def _answered(self, what: str, ask: Callable[[], T]) -> T:
        """``ask()``. A subflow waits for the store, since its caller has work to lose; before a run of its own nothing
        was executed, and the mistake in a setting is told at once.

        Raises:
            JournalLost: no answer, which is no reason to execute anything.
        """
        flow = self._flow
        try:
            return ask() if flow.parent is None else outages.waited_for(flow, what, ask)
        except BackendError as error:
            if flow.parent is not None:
                raise self._flow.stop(outages.lost(flow, error)) from error
            way_on = "Nothing was executed; start it again when the store answers"
            raise JournalLost(f"{what}: {error}. {way_on}") from error

    def _known(self) -> State | TaskOutcome | None:
        """How a run that this program called before has ended: a subflow, or a flow of a background run."""
        flow = self._flow
        if flow.parent is not None:
            outcome = flow.parent.memo.take(flow.run_id, flow.inside)
            if outcome is not None and outcome.value is not None:
                return outcome
        if not flow.may_have_begun:
            return None
        known = ended.state_of(self._backend, flow.run_id, only=AttemptOutcome.COMPLETED)
        if known is not None and not (known.has_data or known.loader):
            return None  # its result was not stored: its own journal replays what it can
        if known is not None and flow.parent is not None:
            self._tell_parent(flow.parent, known)
        return known

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the function, of the types that its annotations name.

        Raises:
            ParameterTypeError, ParameterError: they are not and cannot be made so.
        """
        flow = self._flow
        bound = flow.spec.arranged(flow.parameters)
        if flow.spec.coerce is not None:
            bound.arguments.update(flow.spec.coerce(bound.arguments))
        bound.apply_defaults()
        flow.parameters = dict(bound.arguments)
        return bound.args, bound.kwargs

    def _take_over(self, attempt: int | None, again: bool) -> None:
        flow = self._flow
        if attempt is None:
            attempt = 1
            if flow.may_have_begun:
                before = read_journal(self._backend.store, self._backend.codec, flow.run_id).last
                attempt = 1 if before is None else before.number + 1
        journal = Journal(self._backend.store, self._backend.codec, flow.run_id)
        spec = flow.spec
        identity = spec.identity if spec.entrypoint else ""  # one that could not be loaded stands for another
        try:
            history = journal.open(
                attempt,
                host=os.uname().nodename,
                now=self._started,
                retries=spec.retries,
                flow=identity,
                caller=flow.caller,
                deployment=flow.deployment,
            )
        except BaseException:
            flow.may_have_begun = True  # the opening may be there: the next try takes another number
            journal.close()
            raise
        flow.attempt = attempt
        flow.run_count = history.run_count
        self._retries = history.retries
        outcomes = history.outcomes
        called_again = flow.parent is not None and flow.may_have_begun
        end = history.end
        anew = again and end is not None and end.end.ends_run  # else it goes on: no retry of it was asked for
        if anew or (called_again and end is not None and end.end is not AttemptOutcome.HANDED_BACK):
            journal.append(Retry(0, time.time(), "started again", by_hand=True))
            outcomes = after_retry(outcomes)
            self._retries = 0  # renewed with those of the run that calls it, or by the person who asked
            flow.run_count += 1
        flow.opened(journal, outcomes)
        if outcomes or attempt > 1:
            flow.logger.info("Attempt %d: %d finished task runs are not run again", attempt, len(outcomes))

    def _define(self) -> None:
        flow = self._flow
        entry = flow.spec.entrypoint
        definition.write(
            self._backend,
            flow.run_id,
            Definition(
                flow.spec.name, flow.name, entry, definition.here(), flow.parameters, flow.spec.module, flow.tags
            ),
        )

    # ------------------------------------------------------------------ retries

    def retry_delay(self, state: State) -> float | None:
        """Seconds until the function runs again, None if it does not."""
        flow = self._flow
        flow.check_stopped()
        if state.is_completed() or state.is_cancelled() or self._retries >= flow.spec.retries:
            return None
        if isinstance(state.data, ParameterError):
            return None
        delay = float(flow.spec.delay_before(self._retries + 1))
        flow.logger.warning("%s", state.message, exc_info=told_of(state.data))
        flow.logger.info("Retrying in %s seconds...", delay)
        return delay

    def retry(self, state: State) -> None:
        """Note the retry in the journal; outcomes that failed are forgotten."""
        flow = self._flow
        self._retries += 1
        again = Retry(self._retries, time.time(), state.message)
        self._written("that it starts over", lambda: flow.journal.append(again))
        history = flow.written(
            "The journal cannot be read now",
            lambda: read_journal(self._backend.store, self._backend.codec, flow.run_id),
        )
        flow.run_count += 1
        flow.opened(flow.journal, history.outcomes)

    # ------------------------------------------------------------------ end

    def end(self, state: State) -> State:
        """Record the final state; only then is it shown."""
        flow = self._flow
        flow.check_stopped()
        flow.ending = True
        end = _ENDS.get(state.type, AttemptOutcome.FAILED)
        now = time.time()
        record = AttemptEnd(flow.attempt, end, now, state.message, self._sealed(state))
        self._written("its end", lambda: flow.journal.append(record))
        flow.journal.close()
        ref = result_ref(self._backend.codec, flow.run_id, record) if end is AttemptOutcome.COMPLETED else None
        self._save(state.type.value, state.name, outcome=end, at=now, message=state.message, result_ref=ref, last=True)
        if flow.parent is not None:
            self._tell_parent(flow.parent, state)
        if state.is_completed():
            flow.logger.info("Finished in state %s", state)
        else:
            flow.logger.error("Finished in state %s", state, exc_info=told_of(state.data))
        return state

    def break_off(self, error: BaseException) -> State | None:
        """Record that this attempt ends early, unless another one has the run by now; the state of a run that was
        parked.

        Raises:
            Fenced, JournalLost: instead of ``error``, where that is the real reason.
        """
        flow = self._flow
        reason = flow.stopped or error
        if isinstance(reason, (Fenced, JournalLost)):
            if reason is not error:
                raise reason from error
            return None
        if flow.ending:
            return None
        # In a process of its own stop_here notes every stop: nothing else may have the run started again for ever.
        untold = flow.on_stop is not None and flow.parent is None and flow.stopped is None
        if not ends_the_caller(reason) or (untold and not isinstance(reason, (HandBack, CancelRun, Parked, TimeUp))):
            self.end(returns.failed(reason, "Flow run encountered an exception"))
            return None
        flow.ending = True
        end, kind, name = _EARLY.get(type(reason), (AttemptOutcome.HANDED_BACK, "SCHEDULED", "AwaitingRetry"))
        message = f"{type(reason).__name__}: {reason}" if str(reason) else type(reason).__name__
        if isinstance(reason, Parked):
            message = str(reason)
        now = time.time()
        flow.stop_here(reason)  # a store that takes nothing is waited for no longer
        doubt = Doubt(*reason.doubt) if isinstance(reason, Parked) and reason.doubt is not None else None
        record = AttemptEnd(flow.attempt, end, now, message, doubt=doubt)
        self._written("its end", lambda: flow.journal.append(record))
        self._save(kind, name, outcome=end, at=now, message=message, doubt=doubt, last=True)
        if isinstance(reason, Parked):
            flow.logger.error("Parked: %s. Look at it, then: kapstan flow-run resume %s", reason, flow.run_id)
            return Paused(name="Parked", message=message)
        if isinstance(error, KeyboardInterrupt) and flow.parent is None:
            flow.logger.warning("Stopped. Go on with: kapstan flow-run resume %s", flow.run_id)
        return None

    def _tell_parent(self, parent: FlowRun, state: State) -> None:
        """Put the outcome in the journal of the run that called this one."""
        flow = self._flow
        write = parent.write(flow.spec, flow.run_id, flow.name, state, inside=flow.inside)
        if write is not None:
            write.block()

    def _sealed(self, state: State) -> bytes | None:
        flow = self._flow
        if not state.is_completed():
            error = state.result(raise_on_failure=False) if state.is_final() else RuntimeError(state.message)
            return self._written("its failure", lambda: values.seal_failure(self._backend, error, flow.run_id).envelope)
        if not state.has_data or flow.spec.persist_result is False:
            return None
        try:
            return self._written("its result", lambda: self._result(state.data))
        except SerializationError as error:
            flow.logger.warning("%s; the run is Completed without a stored result", error)
            return None

    def _result(self, value: Any) -> bytes:
        """The envelope of what the flow returned; large ones are in a storage then."""
        backend, run_id, name = self._backend, self._flow.run_id, f"flow {self._flow.spec.name}"
        kept = keeping(self._flow.spec, None, backend.settings)
        envelope = kept.whole(backend, value, run_id, name)
        if envelope is None:
            return kept.streamed(backend, value, run_id, name)
        if kept.storage or len(envelope) > backend.settings.inline_bytes:
            return kept.stored(backend, envelope, run_id)
        return envelope

    def _written(self, what: str, write: Callable[[], T]) -> T:
        return self._flow.written(f"The store does not take {what} now", write)

    def _save(
        self,
        state: str,
        state_name: str,
        *,
        outcome: AttemptOutcome | None = None,
        at: float | None = None,
        message: str = "",
        result_ref: str | None = None,
        doubt: Doubt | None = None,
        last: bool = False,
    ) -> None:
        flow = self._flow
        summary: dict[str, Any] = {
            "name": flow.name,
            "flow": flow.spec.name,
            "entrypoint": flow.spec.entrypoint,
            "state": state,
            "state_name": state_name,
            "message": message[:1000],
            "attempt": flow.attempt,
            "run_count": flow.run_count,
            "started": self._started,
            "ended": at,
            "outcome": outcome,
            "result_ref": result_ref,
            "deployment": flow.deployment,
            "tags": sorted(flow.tags),
            "parent": None if flow.parent is None else flow.parent.run_id,
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "doubt": doubt,
        }
        self._index.save(flow.run_id, summary, last=last)
