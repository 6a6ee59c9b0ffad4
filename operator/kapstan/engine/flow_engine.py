"""Runs one attempt of a flow run, from its opening to its recorded end.

Called by ``flows`` (a direct call, a subflow) and by ``kapstan run`` (an attempt that a Job or a launcher started). As
the chain of tasks, the steps are written once and driven in two ways; what an attempt reads and records stands in
``flow_attempt``.
"""

from __future__ import annotations

import contextvars
from typing import Any

from kapstan import backend as backends
from kapstan.backend import Backend
from kapstan.context import current_flow, current_tags, current_task
from kapstan.engine import branch, forks, naming, returns, transaction
from kapstan.engine.executing import executing
from kapstan.engine.flow_attempt import FlowAttempt
from kapstan.engine.flow_run import FlowRun
from kapstan.engine.keeping import keeping
from kapstan.engine.operations import Call, Do, Limited, Operation, Sleep, Steps, Wait, Walk, adrive, drive
from kapstan.engine.pending import promises, resolved
from kapstan.ids import RunId, new_id, run_name
from kapstan.journal import TaskOutcome
from kapstan.logging import prints_captured
from kapstan.specs import FlowSpec, prints_are_lines
from kapstan.states import State


def new_run(spec: FlowSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FlowRun:
    """A run of its own, or a subflow of the flow run that this is called in; not opened yet.

    Raises:
        ParameterError: the arguments do not fit.
    """
    forks.check_call(f"flow {spec.name}")
    parent: FlowRun | None = current_flow.get()
    parameters = spec.bind(args, kwargs)
    line = branch.here()
    if line is None:
        return make_run(spec, new_id(), resolved(parameters))
    if parent is not None:
        parent.check_stopped(line)
    run = make_run(spec, line.place(f"flow:{spec.identity}", parameters).key, resolved(parameters), parent=parent)
    task = current_task.get()
    run.inside, run.caller = line.task, line.root
    run.may_have_begun = parent is None or parent.attempt > 1 or parent.run_count > 1
    run.may_have_begun |= task is not None and task.run_count > 1
    return run


def make_run(
    spec: FlowSpec,
    run_id: RunId,
    parameters: dict[str, Any],
    *,
    parent: FlowRun | None = None,
    name: str = "",
    deployment: str = "",
    tags: frozenset[str] = frozenset(),
    backend: Backend | None = None,
) -> FlowRun:
    """The run ``run_id`` of ``spec``, not opened yet.

    Args:
        tags: beside those of ``spec`` and of the code that calls this.
    """
    backend = backend or backends.current()
    outer = backend.settings.log_prints if parent is None else parent.log_prints
    return FlowRun(
        spec,
        run_id,
        name or naming.run_name(spec.flow_run_name, parameters) or run_name(run_id),
        parameters,
        backend,
        parent=parent,
        deployment=deployment,
        tags=spec.tags | tags | current_tags.get(),
        log_prints=prints_are_lines(spec.log_prints, outer),
    )


def run(flow: FlowRun, *, attempt: int | None = None, again: bool = False) -> State:
    """Execute ``flow`` on this thread, to its final state; ``Paused`` if it was parked.

    Args:
        attempt: the number of this attempt; None: the next one.
        again: a person asked for it: outcomes that failed are dropped first.

    Raises:
        Fenced: another attempt has taken over; nothing more was recorded.
        HandBack, KeyboardInterrupt: this process is to end; recorded as HandedBack.
        CancelRun: recorded as Cancelled.
        JournalLost: the end, or an outcome, could not be recorded.
    """
    # In a context of its own, so that whatever breaks this off leaves the caller's as it was: a signal may come between
    # two lines that restore it.
    return contextvars.copy_context().run(drive, _steps(flow, attempt, again))


async def arun(flow: FlowRun, *, attempt: int | None = None, again: bool = False) -> State:
    """As ``run``, on the caller's event loop, which journal and store never block."""
    return await adrive(_steps(flow, attempt, again))


def _steps(flow: FlowRun, attempt: int | None, again: bool) -> Steps[State]:
    """What every execution of a flow asks for: a direct call, a subflow, an attempt that a launcher started."""
    step = FlowAttempt(flow)
    known: Any = yield Do(step.open, attempt, again)
    if isinstance(known, TaskOutcome):
        assert flow.parent is not None
        known = flow.parent.replay(known)
        if isinstance(known, Operation):
            known = yield known
    if known is not None:
        return known
    marks = current_flow.set(flow), current_task.set(None), branch.current.set(None), current_tags.set(flow.tags)
    txn_mark = transaction.current.set(None)  # replayed as a whole, a subflow has nothing to commit or undo
    try:
        with executing(), prints_captured(flow.log_prints):
            flow.begun = True
            flow.check_stopped()
            while True:
                state = yield from _execute(flow, step)
                delay = step.retry_delay(state)
                if delay is None:
                    return (yield Do(step.end, state))
                yield Sleep(delay)
                yield Do(step.retry, state)
    except BaseException as error:
        parked = step.break_off(error)
        if parked is not None:
            return parked
        raise
    finally:
        current_flow.reset(marks[0])
        current_task.reset(marks[1])
        branch.current.reset(marks[2])
        current_tags.reset(marks[3])
        transaction.current.reset(txn_mark)
        flow.drop_threads()


def _execute(flow: FlowRun, step: FlowAttempt) -> Steps[State]:
    """The flow's function once: until it has returned and everything that it submitted has ended, within its limit."""
    seconds = flow.spec.timeout_seconds
    body = Walk(_body(flow, step))
    limited = None if seconds is None else Limited(seconds, body)
    try:
        return (yield limited or body)
    except Exception as error:  # noqa: BLE001  (user code)
        timed_out = limited is not None and limited.expired
        state = returns.failed(error, "Flow run encountered an exception", timed_out=timed_out)
    if not timed_out:
        yield from _submitted(flow)
    return state


def _body(flow: FlowRun, step: FlowAttempt) -> Steps[State]:
    flow.backend.objects(keeping(flow.spec, None, flow.backend.settings).storage)  # found now, not when it has ended
    args, kwargs = step.arguments()
    body = flow.body()
    branch.current.set(body)
    result: Any = yield Call(flow.spec.fn, args, kwargs, body)
    waited_for = promises(result)
    if waited_for:
        yield Wait(waited_for)
    state: State = yield Do(returns.state_of, result)
    yield from _submitted(flow)
    return state


def _submitted(flow: FlowRun) -> Steps[None]:
    """Wait for the calls that were submitted, and for those that they submit."""
    while waited_for := flow.submitted():
        yield Wait(waited_for)
    flow.check_stopped()
