"""Call: the user's code, in the context of its run and under its time limit; whatever it raises becomes a state."""

from __future__ import annotations

import time
from typing import Any

from kapstan import states
from kapstan.context import current_task
from kapstan.engine import branch, returns, values
from kapstan.engine.control_flow import ends_the_caller
from kapstan.engine.execution import TaskExecution
from kapstan.engine.operations import Call, Limited, Steps
from kapstan.logging import capture_prints, release_prints
from kapstan.states import State


def call(execution: TaskExecution) -> Steps[State]:
    """The last step: it calls no further one."""
    spec, run = execution.spec, execution.run
    body = execution.ledger.branch(execution)
    code = Call(spec.fn, execution.args, execution.kwargs, body)
    limited = None if spec.timeout_seconds is None else Limited(spec.timeout_seconds, code)
    if spec.result_storage is not None or spec.result_serializer is not None:
        run.result_options = spec
    if spec.timeout_seconds is not None:
        run.deadline = time.time() + spec.timeout_seconds
    mark = current_task.set(run)
    branch_mark = None if body is None else branch.current.set(body)
    captured = run.log_prints
    if captured:
        capture_prints()
    try:
        result: Any = yield limited or code
    except Exception as error:  # noqa: BLE001  (user code)
        timed_out = limited is not None and limited.expired
        return returns.failed(error, "Task run encountered an exception", timed_out=timed_out)
    except BaseException as error:
        if ends_the_caller(error):
            raise
        message = f"Task run crashed: {type(error).__name__}: {values.printable(error)}"
        return states.Crashed(message=message, data=error)
    finally:
        if captured:
            release_prints()
        current_task.reset(mark)
        if branch_mark is not None:
            branch.current.reset(branch_mark)
    return returns.with_result(result) if isinstance(result, State) else states.returned(result)
