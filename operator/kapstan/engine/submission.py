"""Hands background runs to the queue: ``.delay()``, ``.apply_async()``, deferred maps, ``.submit()`` outside a flow.

Inside a flow the run's id is its memo key, so that a resumed flow's submit is a duplicate of the first one and not a
second run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from kapstan import backend as backends
from kapstan.backend import Backend
from kapstan.context import current_flow, current_task
from kapstan.engine import canonical, values
from kapstan.errors import SerializationError
from kapstan.ids import RunId, derived_id, new_id
from kapstan.ports import Submission
from kapstan.specs import TaskSpec

Call = tuple[tuple[Any, ...], dict[str, Any]]


def submit(
    spec: TaskSpec,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    delay: float = 0.0,
    idempotency_key: str | None = None,
    queue: str = "default",
) -> RunId:
    """Submit one run; its id.

    Raises:
        ParameterError: the arguments do not fit.
        SerializationError, ValueTooLarge: they cannot be sent; the message names the argument.
        IdempotencyConflict: the key was used for other arguments.
        QueueUnavailable: the run may or may not have been accepted.
    """
    backend = backends.current()
    submission = _submission(backend, spec, args, kwargs, delay, idempotency_key, queue)
    backend.queue.submit(submission)
    return submission.run_id


def submit_many(spec: TaskSpec, calls: Sequence[Call]) -> list[RunId]:
    """Submit one run for each of ``calls``, in order; raises as ``submit``."""
    backend = backends.current()
    submissions = [_submission(backend, spec, args, kwargs, 0.0, None, "default") for args, kwargs in calls]
    backend.queue.submit_many(submissions)
    return [submission.run_id for submission in submissions]


def _submission(
    backend: Backend,
    spec: TaskSpec,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    delay: float,
    idempotency_key: str | None,
    queue: str,
) -> Submission:
    flow = current_flow.get()
    parameters = spec.bind(args, kwargs)
    arguments: list[Any] = [list(args), dict(kwargs)]
    if flow is None and idempotency_key is None:
        run_id = new_id()
        envelope = _sealed(backend, spec, arguments, run_id, parameters)
        fingerprint = hashlib.blake2b(envelope, digest_size=8).hexdigest()
        return Submission(run_id, spec.identity, envelope, fingerprint, queue, delay, spec.effect)
    if idempotency_key is not None:
        run_id = derived_id("idempotency key", backend.settings.namespace, spec.identity, idempotency_key)
        content = canonical.digest(parameters)
    else:
        assert flow is not None
        task = current_task.get()
        run_id, content = flow.memo.key(task.run_id if task is not None else "", spec.identity, parameters)
        arguments.append({"flow_run": flow.run_id})
    envelope = _sealed(backend, spec, arguments, run_id, parameters)
    return Submission(run_id, spec.identity, envelope, content[:16], queue, delay, spec.effect)


def _sealed(
    backend: Backend, spec: TaskSpec, arguments: list[Any], run_id: RunId, parameters: Mapping[str, Any]
) -> bytes:
    try:
        key = values.arguments_key(run_id, spec.identity)
        return values.seal_value(backend, arguments, "arguments", key, what=f"the arguments of {spec.name}")
    except SerializationError as error:
        raise _blamed(backend, error, spec, parameters, run_id) from error


def _blamed(
    backend: Backend, error: SerializationError, spec: TaskSpec, parameters: Mapping[str, Any], run_id: RunId
) -> SerializationError:
    """``error`` in the name of the first argument that cannot be serialised on its own, if there is one."""
    for name, value in parameters.items():
        try:
            backend.codec.encode(value, "arguments", run_id, what=f"argument {name!r} of {spec.name}")
        except SerializationError as cause:
            return cause
    return error
