"""Runs one attempt of a flow run: opens its journal, calls its function, repeats it as its policy says, records the
end.

Called by ``flows`` (a direct call, a subflow) and by ``kapstan run`` (an attempt that a Job or a launcher started).
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from kapstan import backend as backends
from kapstan.backend import Backend
from kapstan.context import current_flow, current_task
from kapstan.engine import calls, definition, ended, naming, returns, values
from kapstan.engine.definition import Definition
from kapstan.engine.flow_run import FlowRun
from kapstan.engine.pending import resolved
from kapstan.engine.run_index import RunIndex
from kapstan.errors import BackendError, CancelRun, Fenced, JournalLost, ParameterError, SerializationError
from kapstan.ids import RunId, new_id, run_name
from kapstan.journal import AttemptEnd, Journal, Retry, read_journal
from kapstan.logging import redirect_prints, set_up
from kapstan.runs.records import result_ref
from kapstan.specs import FlowSpec
from kapstan.states import AttemptOutcome, State, StateType

logger = logging.getLogger("kapstan.engine")

_ENDS = {StateType.COMPLETED: AttemptOutcome.COMPLETED, StateType.CANCELLED: AttemptOutcome.CANCELLED}


def new_run(spec: FlowSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FlowRun:
    """A run of its own, or a subflow of the flow run that this is called in; not opened yet.

    Raises:
        ParameterError: the arguments do not fit.
    """
    parent: FlowRun | None = current_flow.get()
    parameters = spec.bind(args, kwargs)
    if parent is None:
        run_id = new_id()
    else:
        parent.check_stopped()
        task = current_task.get()
        run_id, _ = parent.memo.key("" if task is None else task.run_id, f"flow:{spec.identity}", parameters)
    return make_run(spec, run_id, resolved(parameters), parent=parent)


def make_run(
    spec: FlowSpec,
    run_id: RunId,
    parameters: dict[str, Any],
    *,
    parent: FlowRun | None = None,
    name: str = "",
    deployment: str = "",
    backend: Backend | None = None,
) -> FlowRun:
    """The run ``run_id`` of ``spec``, not opened yet."""
    backend = backend or backends.current()
    log_prints = spec.log_prints
    if log_prints is None:
        log_prints = parent.log_prints if parent is not None else backend.settings.log_prints
    if log_prints:
        redirect_prints()
    return FlowRun(
        spec,
        run_id,
        name or naming.run_name(spec.flow_run_name, parameters) or run_name(run_id),
        parameters,
        backend,
        parent=parent,
        deployment=deployment,
        log_prints=log_prints,
    )


def run(flow: FlowRun, *, attempt: int | None = None, again: bool = False) -> State:
    """Execute ``flow`` on this thread, to its final state.

    Args:
        attempt: the number of this attempt; None: the next one.
        again: a person asked for it: outcomes that failed are dropped first.

    Raises:
        Fenced: another attempt has taken over; nothing more was recorded.
        HandBack, KeyboardInterrupt: this process is to end; recorded as HandedBack.
        CancelRun: recorded as Cancelled.
        JournalLost: the end, or an outcome, could not be recorded.
    """
    step = _Attempt(flow)
    known = step.open(attempt, again)
    if known is not None:
        return known
    marks = current_flow.set(flow), current_task.set(None)
    try:
        flow.begun = True
        flow.check_stopped()
        while True:
            try:
                args, kwargs = step.arguments()
                result = calls.call(flow.spec.fn, args, kwargs, flow.spec.timeout_seconds)
                state = returns.state_of(result)
                flow.wait_for_submitted()
            except Exception as error:  # noqa: BLE001  (user code)
                flow.wait_for_submitted()
                state = returns.failed(error, "Flow run encountered an exception")
            delay = step.retry_delay(state)
            if delay is None:
                return step.end(state)
            time.sleep(delay)
            step.retry(state)
    except BaseException as error:
        step.break_off(error)
        raise
    finally:
        current_flow.reset(marks[0])
        current_task.reset(marks[1])
        flow.drop_threads()


async def arun(flow: FlowRun, *, attempt: int | None = None, again: bool = False) -> State:
    """As ``run``, on the caller's event loop, which journal and store never block."""
    import asyncio

    off_loop = flow.backend.call
    step = _Attempt(flow)
    known = await off_loop(step.open, attempt, again)
    if known is not None:
        return known
    marks = current_flow.set(flow), current_task.set(None)
    try:
        flow.begun = True
        flow.check_stopped()
        while True:
            try:
                args, kwargs = step.arguments()
                result = await calls.acall(flow.spec.fn, args, kwargs, flow.spec.timeout_seconds)
                state = await off_loop(returns.state_of, result)
                await off_loop(flow.wait_for_submitted)
            except Exception as error:  # noqa: BLE001  (user code)
                await off_loop(flow.wait_for_submitted)
                state = returns.failed(error, "Flow run encountered an exception")
            delay = step.retry_delay(state)
            if delay is None:
                return await off_loop(step.end, state)
            await asyncio.sleep(delay)
            await off_loop(step.retry, state)
    except BaseException as error:
        step.break_off(error)
        raise
    finally:
        current_flow.reset(marks[0])
        current_task.reset(marks[1])
        flow.drop_threads()


class _Attempt:
    """The steps of an attempt that do not depend on how the function is called. Blocking."""

    def __init__(self, flow: FlowRun) -> None:
        self._flow = flow
        self._backend = flow.backend
        self._index = RunIndex(flow.backend)
        self._retries = 0
        self._started = time.time()

    # ------------------------------------------------------------------ begin

    def open(self, attempt: int | None, again: bool) -> State | None:
        """Take the run over; the final state of a run that has ended already and needs no attempt."""
        set_up()
        flow = self._flow
        if flow.parent is not None:
            known = flow.parent.replayed(flow.run_id, flow.name)
            if known is None and not self._is_first():
                known = ended.state_of(self._backend, flow.run_id, only=AttemptOutcome.COMPLETED)
                if known is not None:
                    flow.parent.record(flow.spec, flow.run_id, flow.name, known)
            if known is not None:
                return known
            flow.parent.logger.info("Created subflow run for flow '%s'", flow.spec.name)
        else:
            if attempt in (None, 1):
                logger.info("Created flow run '%s' for flow '%s'", flow.name, flow.spec.name)
            if attempt is None:
                self._define()
        try:
            self._take_over(attempt, again)
        except BackendError as error:
            raise JournalLost(f"the journal of flow run {flow.run_id} cannot be opened: {error}") from error
        self._save("RUNNING", "Running")
        return None

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

    def _is_first(self) -> bool:
        parent = self._flow.parent
        return parent is None or (parent.attempt == 1 and parent.run_count == 1)

    def _take_over(self, attempt: int | None, again: bool) -> None:
        flow = self._flow
        if attempt is None:
            attempt = 1
            if not self._is_first():
                before = read_journal(self._backend.store, self._backend.codec, flow.run_id).last
                attempt = 1 if before is None else before.number + 1
        journal = Journal(self._backend.store, self._backend.codec, flow.run_id)
        history = journal.open(attempt, host=os.uname().nodename, now=self._started, retries=flow.spec.retries)
        flow.attempt = attempt
        flow.run_count = history.retries + 1
        self._retries = history.retries
        outcomes = history.outcomes
        if (
            history.end is not None
            and history.end.end in (AttemptOutcome.FAILED, AttemptOutcome.CANCELLED)
            and (again or flow.parent is not None)
        ):
            journal.append(Retry(history.retries, time.time(), "started again", by_hand=True))
            outcomes = {memo: outcome for memo, outcome in outcomes.items() if outcome.state == StateType.COMPLETED}
        flow.opened(journal, outcomes)
        if outcomes or attempt > 1:
            flow.logger.info("Attempt %d: %d finished task runs are not run again", attempt, len(outcomes))

    def _define(self) -> None:
        flow = self._flow
        entry = flow.spec.entrypoint
        definition.write(
            self._backend,
            flow.run_id,
            Definition(flow.spec.name, flow.name, entry, definition.here(), flow.parameters),
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
        flow.logger.warning("%s", state.message, exc_info=_raised(state))
        flow.logger.info("Retrying in %s seconds...", delay)
        return delay

    def retry(self, state: State) -> None:
        """Note the retry in the journal; outcomes that failed are forgotten."""
        flow = self._flow
        self._retries += 1
        self._written(lambda: flow.journal.append(Retry(self._retries, time.time(), state.message)))
        history = self._written(lambda: read_journal(self._backend.store, self._backend.codec, flow.run_id))
        flow.run_count = self._retries + 1
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
        self._written(lambda: flow.journal.append(record))
        self._written(flow.journal.close)
        ref = result_ref(self._backend.codec, flow.run_id, record) if end is AttemptOutcome.COMPLETED else None
        self._save(state.type.value, state.name, outcome=end, at=now, message=state.message, result_ref=ref, last=True)
        if flow.parent is not None:
            flow.parent.record(flow.spec, flow.run_id, flow.name, state)
        if state.is_completed():
            flow.logger.info("Finished in state %s", state)
        else:
            flow.logger.error("Finished in state %s", state, exc_info=_raised(state))
        return state

    def break_off(self, error: BaseException) -> None:
        """Record that this attempt ends early, unless another one has the run by now.

        Raises:
            Fenced, JournalLost: instead of ``error``, where that is the real reason.
        """
        flow = self._flow
        reason = flow.stopped or error
        if isinstance(reason, (Fenced, JournalLost)):
            if reason is not error:
                raise reason from error
            return
        if flow.ending:
            return
        if isinstance(error, SystemExit):
            self.end(returns.failed(error, "Flow run encountered an exception"))
            return
        flow.ending = True
        end = AttemptOutcome.CANCELLED if isinstance(reason, CancelRun) else AttemptOutcome.HANDED_BACK
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        now = time.time()
        self._written(lambda: flow.journal.append(AttemptEnd(flow.attempt, end, now, message)))
        kind, name = ("CANCELLED", "Cancelled") if end is AttemptOutcome.CANCELLED else ("SCHEDULED", "AwaitingRetry")
        self._save(kind, name, outcome=end, at=now, message=message, last=True)
        if isinstance(error, KeyboardInterrupt) and flow.parent is None:
            flow.logger.warning("Stopped. Go on with: kapstan flow-run resume %s", flow.run_id)

    def _sealed(self, state: State) -> bytes | None:
        flow = self._flow
        if not state.is_completed():
            error = state.result(raise_on_failure=False) if state.is_final() else RuntimeError(state.message)
            return self._written(lambda: values.seal_failure(self._backend, error, flow.run_id))
        if not state.has_data or flow.spec.persist_result is False:
            return None
        try:
            what = f"the result of flow {flow.spec.name}"
            return self._written(lambda: values.seal_value(self._backend, state.data, "result", flow.run_id, what=what))
        except SerializationError as error:
            flow.logger.warning("%s; the run is Completed without a stored result", error)
            return None

    def _written(self, write: Any) -> Any:
        try:
            return write()
        except BackendError as error:
            raise self._flow.stop(JournalLost(str(error))) from error
        except Fenced as error:
            self._flow.stop(error)
            raise

    def _save(
        self,
        state: str,
        state_name: str,
        *,
        outcome: AttemptOutcome | None = None,
        at: float | None = None,
        message: str = "",
        result_ref: str | None = None,
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
            "parent": None if flow.parent is None else flow.parent.run_id,
            "host": os.uname().nodename,
            "pid": os.getpid(),
        }
        self._index.save(flow.run_id, summary, last=last)


def _raised(state: State) -> BaseException | None:
    return state.data if isinstance(state.data, BaseException) and state.data.__traceback__ is not None else None
