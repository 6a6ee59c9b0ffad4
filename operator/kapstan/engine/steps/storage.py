"""Storage: before the task's code begins it is known where the result will be put, and that this can be used."""

from __future__ import annotations

from kapstan import records
from kapstan.engine import returns, storages
from kapstan.engine.execution import Next, TaskExecution
from kapstan.engine.operations import Steps
from kapstan.errors import ConfigurationError, UnreadableValue
from kapstan.states import State


def storage(execution: TaskExecution, proceed: Next) -> Steps[State]:
    spec, ledger = execution.spec, execution.ledger
    try:
        if spec.result_storage_key is not None:
            execution.storage_key = storages.storage_key(spec.result_storage_key, execution.run)
        if execution.storage_key or ledger.keeps:
            backend, place = ledger.its_backend(), ledger.keeping(execution).storage
            backend.objects(place)
            if execution.storage_key:
                records.check_place(backend, place, execution.storage_key)
    except (ConfigurationError, UnreadableValue) as error:
        return _failed(error)
    return proceed(execution)


def _failed(error: ConfigurationError | UnreadableValue) -> Steps[State]:
    return returns.failed(error, "Task run was not executed")
    yield
