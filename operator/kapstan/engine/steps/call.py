"""Call: the user's code, in the context of its run and under its time limit; whatever it raises becomes a state."""

from __future__ import annotations

import sys
import threading
from typing import Any

from kapstan import states
from kapstan.context import current_task
from kapstan.engine import branch, returns
from kapstan.engine.execution import TaskExecution
from kapstan.engine.limits import TimeUp
from kapstan.engine.operations import Call, Limited, Operation, Steps
from kapstan.errors import CancelRun, Fenced, HandBack, JournalLost, Parked
from kapstan.logging import prints_captured
from kapstan.states import State


def call(execution: TaskExecution) -> Steps[State]:
    """The last step: it hands on to nobody."""
    spec, run = execution.spec, execution.run
    body = execution.ledger.branch(execution)
    operation: Operation = Call(spec.fn, execution.args, execution.kwargs, body)
    if spec.timeout_seconds is not None:
        operation = Limited(spec.timeout_seconds, operation)
    mark = current_task.set(run)
    branch_mark = None if body is None else branch.current.set(body)
    try:
        with prints_captured(run.log_prints):
            result: Any = yield operation
    except Exception as error:  # noqa: BLE001  (user code)
        return returns.failed(error, "Task run encountered an exception")
    except BaseException as error:
        if ends_the_caller(error):
            raise
        message = f"Task run crashed: {type(error).__name__}: {error}"
        return states.Crashed(message=message, data=error)
    finally:
        current_task.reset(mark)
        if branch_mark is not None:
            branch.current.reset(branch_mark)
    return result if isinstance(result, State) else states.Completed(data=result)


def ends_the_caller(error: BaseException) -> bool:
    """Whether ``error``, no Exception, is meant for whoever called the user's code: it was told to end, or it is over
    its time. Anything else (``sys.exit()``, a cancellation that nobody asked this asyncio task for) is the code's own
    doing and ends its run only."""
    if isinstance(error, (Fenced, HandBack, CancelRun, JournalLost, Parked, TimeUp, GeneratorExit)):
        return True
    if isinstance(error, KeyboardInterrupt):
        return threading.current_thread() is threading.main_thread()
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or not isinstance(error, asyncio.CancelledError):
        return False
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and task.cancelling() > 0
