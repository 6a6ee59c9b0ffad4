"""Runs one task call in a flow, or on its own: replay, resolve, execute with retries, record.

Called by ``tasks``. In a flow the outcome of every call, failures included, is in the run's journal before the caller
goes on; a call that an earlier attempt finished is not executed again.
"""

from __future__ import annotations

import contextvars
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kapstan import settings, states
from kapstan.context import TaskRun, current_flow, current_task
from kapstan.engine import calls, naming, retries, returns
from kapstan.engine.flow_run import FlowRun
from kapstan.engine.pending import Pending, Resolvable, UpstreamFailed, resolvables, resolved, when_done
from kapstan.ids import new_id
from kapstan.logging import redirect_prints, task_run_info, task_run_logger
from kapstan.specs import TaskSpec
from kapstan.states import State


@dataclass(slots=True)  # not frozen: that would triple the cost of making one, on the way of every task call
class TaskCall:
    """One call of a task: its arguments as they were given, and the run that it will be. Never changed."""

    spec: TaskSpec
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    wait_for: tuple[Any, ...]
    run: TaskRun
    flow: FlowRun | None


def prepare(spec: TaskSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any], wait_for: tuple[Any, ...]) -> TaskCall:
    """Bind the arguments and give the call its id: in a flow its memo key.

    Raises:
        ParameterError: the arguments do not fit.
    """
    flow: FlowRun | None = current_flow.get()
    parameters = spec.bind(args, kwargs)
    if flow is None:
        run_id = new_id()
    else:
        flow.check_stopped()
        task = current_task.get()
        run_id, _ = flow.memo.key("" if task is None else task.run_id, spec.identity, parameters)
    log_prints = spec.log_prints
    if log_prints is None:
        log_prints = flow.log_prints if flow is not None else settings.current().log_prints
    if log_prints:
        redirect_prints()
    run = TaskRun(
        run_id,
        spec.name,
        1,
        parameters,
        name=naming.run_name(spec.task_run_name, parameters),
        tags=spec.tags,
        flow_run_id=None if flow is None else flow.run_id,
        log_prints=log_prints,
    )
    return TaskCall(spec, args, kwargs, wait_for, run, flow)


def run(call: TaskCall) -> State:
    """The final state of ``call``, executed on this thread; ``NotReady`` if something that it waits for failed."""
    state = _replayed(call)
    if state is not None:
        return state
    try:
        args, kwargs = _inputs(call)
    except UpstreamFailed as error:
        return _not_ready(error)
    state = _execute(call, args, kwargs)
    if call.flow is not None:
        call.flow.record(call.spec, call.run.run_id, call.run.name, state)
    return state


async def arun(call: TaskCall) -> State:
    """As ``run``, for an async task on the caller's event loop, which is never blocked."""
    state = _replayed(call)
    if state is not None:
        return state
    try:
        await _await_inputs(call)
        args, kwargs = _inputs(call)
    except UpstreamFailed as error:
        return _not_ready(error)
    state = await _aexecute(call, args, kwargs)
    if call.flow is not None:
        await call.flow.arecord(call.spec, call.run.run_id, call.run.name, state)
    return state


def submit(call: TaskCall) -> Pending:
    """Run ``call`` on the flow's threads, once what it waits for has ended."""
    flow = call.flow
    assert flow is not None
    pending = Pending(call.run.run_id)
    state = _replayed(call)
    if state is not None:
        pending.finish(state)
        return pending
    flow.track(pending)
    context = contextvars.copy_context()

    def start() -> None:
        flow.threads.submit(context.run, _run_submitted, call, flow, pending)

    when_done(_upstream(call), start)
    return pending


_loops = calls.LoopThread()


def _run_submitted(call: TaskCall, flow: FlowRun, pending: Pending) -> None:
    """On a thread of the flow: the outcome is left to the journal's next write, the future resolves when it is
    stored.
    """
    try:
        flow.check_stopped()
        args, kwargs = _inputs(call)
        pending.state = states.Running()
        state = _loops.run_once(_aexecute(call, args, kwargs)) if call.spec.is_async else _execute(call, args, kwargs)
        flow.post(call.spec, call.run.run_id, call.run.name, state, lambda: pending.finish(state))
    except UpstreamFailed as error:
        pending.finish(_not_ready(error))
    except BaseException as error:  # noqa: BLE001  (Fenced and its like must reach the flow, not end in this thread)
        flow.stop(error)
        pending.finish(states.Crashed(message=f"{type(error).__name__}: {error}", data=error))


# ---------------------------------------------------------------------------------------------- execution


def _execute(call: TaskCall, args: Any, kwargs: Any) -> State:
    spec, run = call.spec, call.run
    while True:
        mark = current_task.set(run)
        try:
            return _completed(call, calls.call(spec.fn, args, kwargs, spec.timeout_seconds))
        except Exception as error:  # noqa: BLE001  (user code)
            ended = _failed(call, error)
        finally:
            current_task.reset(mark)
        if isinstance(ended, State):
            return ended
        time.sleep(ended)
        run.run_count += 1


async def _aexecute(call: TaskCall, args: Any, kwargs: Any) -> State:
    import asyncio

    spec, run = call.spec, call.run
    while True:
        mark = current_task.set(run)
        try:
            return _completed(call, await calls.acall(spec.fn, args, kwargs, spec.timeout_seconds))
        except Exception as error:  # noqa: BLE001  (user code)
            ended = _failed(call, error)
        finally:
            current_task.reset(mark)
        if isinstance(ended, State):
            return ended
        await asyncio.sleep(ended)
        run.run_count += 1


def _completed(call: TaskCall, result: Any) -> State:
    state = result if isinstance(result, State) else states.Completed(data=result)
    task_run_info(call.run, "Finished in state %s", state)
    return state


def _failed(call: TaskCall, error: Exception) -> State | float:
    """The final state, or the seconds until the next execution."""
    logger = task_run_logger(call.run)
    delay = retries.retry_delay(call.spec, call.run.run_count, error)
    if delay is not None:
        logger.warning("Task run failed with exception: %r", error)
        logger.info("Retrying in %s seconds...", float(delay))
        return delay
    state = returns.failed(error, "Task run encountered an exception")
    logger.error("%s", state.message, exc_info=error)
    logger.error("Finished in state %s", state)
    return state


# ---------------------------------------------------------------------------------------------- inputs


def _replayed(call: TaskCall) -> State | None:
    return None if call.flow is None else call.flow.replayed(call.run.run_id, call.run.name)


def _upstream(call: TaskCall) -> list[Resolvable]:
    return [*resolvables(list(call.args)), *resolvables(dict(call.kwargs)), *resolvables(list(call.wait_for))]


def _inputs(call: TaskCall) -> tuple[Any, Any]:
    for item in call.wait_for:
        if isinstance(item, State) and not item.is_completed():
            raise UpstreamFailed(item.name)
        resolved(item)
    return resolved(call.args), resolved(dict(call.kwargs))


async def _await_inputs(call: TaskCall) -> None:
    waited_for = _upstream(call)
    if not waited_for:
        return
    import asyncio

    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    when_done(waited_for, lambda: loop.call_soon_threadsafe(ended.set))
    await ended.wait()


def _not_ready(error: UpstreamFailed) -> State:
    return states.Pending(name="NotReady", message=f"something that it waits for ended as {error}")
