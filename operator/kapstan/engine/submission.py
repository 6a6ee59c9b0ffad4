"""Hands background runs to the queue: ``.delay()``, ``.apply_async()``, deferred maps, ``.submit()`` outside a flow.

Inside a flow the run's id is its memo key, so that a resumed flow's submit is a duplicate of the first one and not a
second run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kapstan import backend as backends
from kapstan.backend import Backend
from kapstan.codec import Codec, fingerprint
from kapstan.context import current_flow
from kapstan.engine import branch, canonical, values
from kapstan.errors import ConfigurationError, SerializationError
from kapstan.identity import unfindable
from kapstan.ids import RunId, derived_id, new_id, new_ids
from kapstan.ports import Submission
from kapstan.specs import TaskSpec

Call = tuple[tuple[Any, ...], dict[str, Any]]


def submit(
    spec: TaskSpec,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    delay: float = 0.0,
    idempotency_key: str | None = None,
    queue: str = "default",
    named: Callable[[RunId], object] = lambda _: None,
) -> RunId:
    """Submit one run; its id.

    Args:
        named: is told the id before the queue is.

    Raises:
        ConfigurationError: the task is a lambda or a local function without a name, which no worker finds.
        ParameterError: the arguments do not fit.
        SerializationError, ValueTooLarge: they cannot be sent; the message names the argument.
        IdempotencyConflict: the key was used for other arguments.
        QueueUnavailable: the run may or may not have been accepted.
    """
    backend = backends.current()
    flow = current_flow.get()
    if idempotency_key is not None:
        body = _serialised(backend.codec, spec, args, kwargs, None)
        run_id = derived_id("idempotency key", backend.settings.namespace, spec.identity, idempotency_key)
        content = canonical.digest(spec.bind(args, kwargs))[:16]
    else:
        body = _serialised(backend.codec, spec, args, kwargs, flow)
        run_id, content = _run_id(spec, args, kwargs)
    submission = _submission(backend, backend.codec, spec, run_id, body, content, queue, delay)
    named(run_id)
    backend.queue.submit(submission)
    return run_id


def submit_many(spec: TaskSpec, calls: Sequence[Call]) -> list[RunId]:
    """Submit one run for each of ``calls``, in order; raises as ``submit``. None is submitted if one cannot be sent."""
    backend = backends.current()
    codec, flow = backend.codec, current_flow.get()
    bodies = [_serialised(codec, spec, args, kwargs, flow) for args, kwargs in calls]
    if branch.here() is None:
        names = [(run_id, "") for run_id in new_ids(len(calls))]
    else:
        names = [_run_id(spec, args, kwargs) for args, kwargs in calls]
    # A generator: the queue draws from it while Redis works on the ones before.
    backend.queue.submit_many(
        _submission(backend, codec, spec, run_id, body, content)
        for (run_id, content), body in zip(names, bodies, strict=True)
    )
    return [run_id for run_id, _ in names]


def _serialised(
    codec: Codec, spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any], flow: Any
) -> tuple[bytes, bytes]:
    """Serializer and body of the arguments, which fit, of a task that workers can find."""
    if "<" in spec.identity and (reason := unfindable(spec.identity, spec.fn)):
        raise ConfigurationError(f"task {spec.name} cannot run in the background: {reason}")
    least, most = spec.arity
    if kwargs or not least <= len(args) <= most:  # else they fit; binding costs as much as all the rest of this
        spec.bind(args, kwargs)
    arguments: list[Any] = [list(args), kwargs]
    if flow is not None:
        arguments.append({"flow_run": flow.run_id})
    try:
        return codec.serialise(arguments, f"the arguments of {spec.name}")
    except SerializationError as error:
        raise _blamed(codec, error, spec, spec.bind(args, kwargs)) from error


def _run_id(spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[RunId, str]:
    """The id of a run, and what tells its arguments. Inside a run it is the key of the call, so that a run that is
    executed again submits a duplicate."""
    line = branch.here()
    if line is None:
        return new_id(), ""
    flow = current_flow.get()
    if flow is not None:
        flow.check_stopped(line)
    place = line.place(spec.identity, spec.bind(args, kwargs))
    return place.key, place.content[:16]


def _submission(
    backend: Backend,
    codec: Codec,
    spec: TaskSpec,
    run_id: RunId,
    body: tuple[bytes, bytes],
    content: str,
    queue: str = "default",
    delay: float = 0.0,
) -> Submission:
    identity = spec.identity
    key = values.arguments_key(run_id, identity)
    envelope = codec.seal(*body, "arguments", key)
    content = content or fingerprint(envelope)
    if len(envelope) > backend.settings.inline_bytes:
        envelope = values.to_store(backend, envelope, "arguments", key)
    return Submission(run_id, identity, envelope, content, queue, delay, spec.effect)


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
