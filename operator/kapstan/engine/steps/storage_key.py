"""Storage key: the key under which the result will stand is made before the task runs; without one it does not run."""

from __future__ import annotations

from kapstan.engine import returns, storages
from kapstan.engine.execution import Next, TaskExecution
from kapstan.engine.operations import Steps
from kapstan.errors import ConfigurationError
from kapstan.states import State


def storage_key(execution: TaskExecution, proceed: Next) -> Steps[State]:
    template = execution.spec.result_storage_key
    assert template is not None, "the step is in the chain of tasks that have one"
    try:
        execution.storage_key = storages.storage_key(template, execution.run)
    except ConfigurationError as error:
        return _failed(error)
    return proceed(execution)


def _failed(error: ConfigurationError) -> Steps[State]:
    return returns.failed(error, "Task run was not executed")
    yield
