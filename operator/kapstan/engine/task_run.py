"""The ways in which a task is run in this process: called, called in asyncio, submitted. All walk ``engine.chain``.

Called by ``tasks``. In a flow the outcome of every call, failures included, is in the run's journal before the caller
goes on; a call that an earlier attempt finished is not executed again.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Mapping
from typing import Any

from kapstan import context, settings, states
from kapstan.context import TaskRun, current_flow, current_tags
from kapstan.engine import branch, forks, naming, transaction
from kapstan.engine.branch import Branch
from kapstan.engine.chain import walk
from kapstan.engine.control_flow import ends_the_caller
from kapstan.engine.executing import executing_flows
from kapstan.engine.execution import Ledger, TaskExecution
from kapstan.engine.flow_run import FlowRun
from kapstan.engine.limits import TimeUp
from kapstan.engine.operations import adrive, drive
from kapstan.engine.pending import Pending
from kapstan.engine.threads import Submitted
from kapstan.errors import TaskTimeout
from kapstan.ids import new_id
from kapstan.specs import TaskSpec, prints_are_lines
from kapstan.states import State

logger = logging.getLogger("kapstan.engine")


def prepare(
    spec: TaskSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any], wait_for: tuple[Any, ...]
) -> TaskExecution:
    """Bind the arguments and give the call its id: in a flow its memo key.

    Raises:
        ParameterError: the arguments do not fit.
    """
    flow: FlowRun | None = current_flow.get()
    parameters = spec.bind(args, kwargs)
    line, position, inside = branch.here(), "", None
    if line is None:
        _warn_without_context(spec)
        ledger, run_id = _nowhere, new_id()
    elif flow is None:
        ledger = _InBackgroundRun(line.child(f"call {spec.identity}"))
        run_id = line.place(spec.identity, parameters, strict=spec.strict_inputs).key if spec.has_effect else new_id()
    else:
        flow.check_stopped(line)
        run_id, _, position = line.place(spec.identity, parameters, strict=spec.strict_inputs)
        ledger, inside = flow, line.task
    outer = settings.current().log_prints if flow is None else flow.log_prints
    run = TaskRun(
        run_id,
        spec.name,
        1,
        parameters,
        name=naming.run_name(spec.task_run_name, parameters),
        tags=spec.tags | around if (around := current_tags.get()) else spec.tags,
        flow_run_id=None if flow is None else flow.run_id,
        log_prints=prints_are_lines(spec.log_prints, outer),
    )
    return TaskExecution(spec, args, kwargs, wait_for, run, ledger, position, inside)


def run(execution: TaskExecution) -> State:
    """The final state, executed on this thread; ``NotReady`` if something that it waits for failed."""
    return drive(walk(execution))


async def arun(execution: TaskExecution) -> State:
    """As ``run``, for an async task on the caller's event loop, which is never blocked."""
    return await adrive(walk(execution))


def result(state: State) -> Any:
    """What a direct call returns or raises: also what is no Exception, such as ``sys.exit()`` of the task."""
    if state.is_crashed() and isinstance(state.data, BaseException):
        raise state.data
    return state.result()


def submit(execution: TaskExecution) -> Pending:
    """Run it on the flow's threads, once what it waits for has ended."""
    flow = execution.ledger
    assert isinstance(flow, FlowRun)
    pending = Pending(execution.run.run_id)
    flow.track(pending)
    around = transaction.current.get()
    if around is not None:
        around.track(pending)

    def begun() -> None:
        pending.state = states.Running()

    def ended(result: State | BaseException) -> None:
        if isinstance(result, State):
            pending.finish(result)
        elif isinstance(result, TimeUp):
            error = TaskTimeout("the time limit of the flow was over")
            pending.finish(State(states.StateType.FAILED, "TimedOut", str(error), data=error, has_data=True))
        else:
            if ends_the_caller(result):  # Fenced and its like must reach the flow, not end in this thread
                flow.stop(result)
            pending.finish(states.Crashed(message=f"{type(result).__name__}: {result}", data=result))

    Submitted(walk(execution), flow.threads, contextvars.copy_context(), begun, ended).start()
    return pending


_nowhere = Ledger()


class _InBackgroundRun(Ledger):
    """Of a task that the code of a background run calls. That is executed again and makes the same calls, so an effect
    has the same key. The calls of the task's own body are counted anew with each execution of it.
    """

    __slots__ = ("_line",)

    def __init__(self, line: Branch) -> None:
        self._line = line

    def branch(self, _: TaskExecution, /) -> Branch:
        line = self._line
        return Branch(line.root, line.path, line.task, line.execution)


# ---------------------------------------------------------------------------------------------- calls without context

_warned = False


def _warn_without_context(spec: TaskSpec) -> None:
    """Say once that a call, which may have been meant for a flow, belongs to none."""
    global _warned
    forks.check_call(f"task {spec.name}")
    thread = threading.current_thread()
    if _warned or not (context.forked_off or (executing_flows() and thread is not threading.main_thread())):
        return
    _warned = True
    where = "in a forked process" if context.forked_off else f"on thread '{thread.name}'"
    logger.warning(
        "Task %s is called %s, which carries no flow run: its outcome is not recorded, and a resumed flow runs it "
        "again. Use %s.submit(), or start a thread with contextvars.copy_context().run",
        spec.name,
        where,
        spec.name,
    )
