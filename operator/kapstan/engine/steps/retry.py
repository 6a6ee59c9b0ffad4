"""Retry: a failed execution runs again as the task's policy says; here, or in the background after a way through the
queue."""

from __future__ import annotations

from kapstan.context import current_task
from kapstan.engine import retries
from kapstan.engine.execution import Next, TaskExecution
from kapstan.engine.operations import Sleep, Steps
from kapstan.logging import task_run_logger
from kapstan.states import State


def retry(execution: TaskExecution, proceed: Next) -> Steps[State]:
    spec, run = execution.spec, execution.run
    while True:
        state = yield from proceed(execution)
        if not state.is_failed() or retries.is_in_doubt(spec, state):
            return state
        error = state.result(raise_on_failure=False)
        mark = current_task.set(run)  # a condition of the user's may ask for it
        try:
            delay = retries.retry_delay(spec, run.run_count, error)
        finally:
            current_task.reset(mark)
        if delay is None:
            return state
        logger = task_run_logger(run)
        logger.warning("Task run failed with exception: %r", error)
        logger.info("Retrying in %s seconds...", float(delay))
        if not execution.ledger.retries_in_place:
            return execution.ledger.again_later(execution, delay)
        yield Sleep(delay)
        run.run_count += 1
