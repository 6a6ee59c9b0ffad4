"""Hands background runs to the queue: ``.delay()``, ``.apply_async()``, deferred maps, ``.submit()`` outside a flow.

Inside a flow the run's id is its memo key, so that a resumed flow's submit is a duplicate of the first one and not a
second run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kapstan import backend as backends
from kapstan.backend import Backend
from kapstan.codec import Codec, fingerprint
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
    body = _serialised(backend.codec, spec, args, kwargs, idempotency_key)
    submission = _submission(backend, spec, args, kwargs, body, delay, idempotency_key, queue)
    backend.queue.submit(submission)
    return submission.run_id


def submit_many(spec: TaskSpec, calls: Sequence[Call]) -> list[RunId]:
    """Submit one run for each of ``calls``, in order; raises as ``submit``. None is submitted if one cannot be sent."""
    backend = backends.current()
    codec = backend.codec
    bodies = [_serialised(codec, spec, args, kwargs, None) for args, kwargs in calls]
    run_ids: list[RunId] = []

    def submissions() -> Iterator[Submission]:  # drawn by the queue while Redis works on the ones before
        for (args, kwargs), body in zip(calls, bodies, strict=True):
            submission = _submission(backend, spec, args, kwargs, body, 0.0, None, "default")
            run_ids.append(submission.run_id)
            yield submission

    backend.queue.submit_many(submissions())
    return run_ids


def _serialised(
    codec: Codec, spec: TaskSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any], idempotency_key: str | None
) -> tuple[bytes, bytes]:
    """Serializer and body of the arguments, which fit."""
    least, most = spec.arity
    if kwargs or not least <= len(args) <= most:  # else they fit; binding costs as much as all the rest of this
        spec.bind(args, kwargs)
    arguments: list[Any] = [list(args), dict(kwargs)]
    flow = current_flow.get()
    if flow is not None and idempotency_key is None:
        arguments.append({"flow_run": flow.run_id})
    try:
        return codec.serialise(arguments, f"the arguments of {spec.name}")
    except SerializationError as error:
        raise _blamed(codec, error, spec, spec.bind(args, kwargs)) from error


def _submission(
    backend: Backend,
    spec: TaskSpec,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    body: tuple[bytes, bytes],
    delay: float,
    idempotency_key: str | None,
    queue: str,
) -> Submission:
    flow = current_flow.get()
    content = ""
    if idempotency_key is not None:
        run_id = derived_id("idempotency key", backend.settings.namespace, spec.identity, idempotency_key)
        content = canonical.digest(spec.bind(args, kwargs))[:16]
    elif flow is not None:
        task = current_task.get()
        parent = task.run_id if task is not None else ""
        run_id, content = flow.memo.key(parent, spec.identity, spec.bind(args, kwargs))
        content = content[:16]
    else:
        run_id = new_id()
    key = values.arguments_key(run_id, spec.identity)
    envelope = backend.codec.seal(*body, "arguments", key)
    content = content or fingerprint(envelope)
    if len(envelope) > backend.settings.inline_bytes:
        envelope = values.to_store(backend, envelope, "arguments", key)
    return Submission(run_id, spec.identity, envelope, content, queue, delay, spec.effect)


def _blamed(
    codec: Codec, error: SerializationError, spec: TaskSpec, parameters: Mapping[str, Any]
) -> SerializationError:
    """``error`` in the name of the first argument that cannot be serialised on its own, if there is one."""
    for name, value in parameters.items():
        try:
            codec.serialise(value, f"argument {name!r} of {spec.name}")
        except SerializationError as cause:
            return cause
    return error
