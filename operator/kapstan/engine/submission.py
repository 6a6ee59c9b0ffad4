"""Hands background runs to the queue: ``.delay()``, ``.apply_async()``, deferred maps, ``.submit()`` outside a flow.

Inside a flow the run's id is its memo key, so that a resumed flow's submit is a duplicate of the first one and not a
second run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from kapstan import backend as backends
from kapstan.backend import Backend
from kapstan.codec import Codec, fingerprint
from kapstan.context import current_flow
from kapstan.engine import branch, canonical, forks, naming, queue_options, values
from kapstan.engine import options as opts
from kapstan.errors import ConfigurationError, SerializationError
from kapstan.identity import unfindable
from kapstan.ids import RunId, derived_id, new_id, new_ids
from kapstan.ports import Submission
from kapstan.specs import TaskSpec

if TYPE_CHECKING:
    from kapstan.engine.delayed import DelayedCall
    from kapstan.engine.flow_run import FlowRun

Call = tuple[tuple[Any, ...], dict[str, Any]]


def submit(
    spec: TaskSpec,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    delay: float = 0.0,
    idempotency_key: str | None = None,
    queue: str | None = None,
    priority: int | None = None,
    group: str | None = None,
    named: Callable[[RunId], object] = lambda _: None,
) -> RunId:
    """Submit one run; its id.

    Args:
        queue, priority, group: other ones than those of the task.
        named: called with the id before the queue is given the run.

    Raises:
        ConfigurationError: the task is a lambda or a local function without a name, which no worker finds.
        ParameterError: the arguments do not fit.
        SerializationError, ValueTooLarge: they cannot be sent; the message names the argument.
        IdempotencyConflict: the key was used for other arguments.
        QueueUnavailable: the run may or may not have been accepted.
    """
    backend = backends.current()
    flow: FlowRun | None = current_flow.get()
    if flow is None:
        forks.check_call(f"{spec.name}.delay()")
    call: DelayedCall | None = None
    if idempotency_key is not None:
        body = _serialised(backend.codec, spec, args, kwargs, None)
        run_id = derived_id("idempotency key", backend.settings.namespace, spec.identity, idempotency_key)
        content = canonical.digest(spec.bind(args, kwargs))[:16]
    else:
        body = _serialised(backend.codec, spec, args, kwargs, flow)
        run_id, content, call = _run_of(spec, args, kwargs, flow)
        if call is not None and not call.submit:
            return run_id
    owner = "" if call is None or flow is None else flow.run_id
    submission = _submission(backend, backend.codec, spec, run_id, body, content, owner, delay)
    if queue is not None:
        submission = submission._replace(queue=queue_options.queue("queue", queue))
    if priority is not None:
        submission = submission._replace(priority=queue_options.priority("priority", priority))
    if group is not None:
        submission = submission._replace(group=queue_options.group("group", group))
    elif spec.group is not None:
        submission = submission._replace(group=naming.group(spec.group, spec.bind(args, kwargs)))
    named(run_id)
    backend.queue.submit(submission)
    if flow is not None and call is not None:
        flow.delayed.submitted(call)
    return run_id


def delay_of(countdown: float, eta: datetime | None) -> float:
    """Seconds until a run may start, from either.

    Raises:
        ConfigurationError: both are given, or one that says no moment.
    """
    delay = opts.number("countdown", countdown)
    if eta is None:
        return delay
    if delay:
        raise ConfigurationError(f"countdown={countdown!r} and eta={eta!r}: give one of them")
    if not isinstance(eta, datetime) or eta.tzinfo is None:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"eta={eta!r}: give a datetime with a time zone, such as datetime.now(UTC) + delta")
    return max(0.0, eta.timestamp() - time.time())


def submit_many(spec: TaskSpec, calls: Sequence[Call]) -> list[RunId]:
    """Submit one run for each of ``calls``, in order; raises as ``submit``. If one cannot be sent, none is
    submitted."""
    backend = backends.current()
    codec = backend.codec
    flow: FlowRun | None = current_flow.get()
    if flow is None:
        forks.check_call(f"{spec.name}.map(deferred=True)")
    bodies = [_serialised(codec, spec, args, kwargs, flow) for args, kwargs in calls]
    groups = _groups(spec, calls)
    # Generators: the queue draws from them while Redis works on the ones before.
    if branch.here() is None:
        ids = new_ids(len(calls))
        backend.queue.submit_many(
            _submission(backend, codec, spec, run_id, body, "", "", group=group)
            for run_id, body, group in zip(ids, bodies, groups, strict=True)
        )
        return ids
    runs = [_run_of(spec, args, kwargs, flow) for args, kwargs in calls]
    backend.queue.submit_many(
        _submission(backend, codec, spec, run_id, body, content, flow.run_id if call and flow else "", group=group)
        for (run_id, content, call), body, group in zip(runs, bodies, groups, strict=True)
        if call is None or call.submit
    )
    for run in runs:
        if flow is not None and run.call is not None and run.call.submit:
            flow.delayed.submitted(run.call)
    return [run.run_id for run in runs]


def _groups(spec: TaskSpec, calls: Sequence[Call]) -> list[str]:
    if spec.group is None:
        return [""] * len(calls)
    return [naming.group(spec.group, spec.bind(args, kwargs)) for args, kwargs in calls]


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


class _Run(NamedTuple):
    """Attributes:
    content: what tells the arguments, "" for whatever they are serialised to.
    call: what the flow that makes the call knows of it.
    """

    run_id: RunId
    content: str
    call: DelayedCall | None


def _run_of(spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any], flow: FlowRun | None) -> _Run:
    """The run that a call submits. Inside a run its id is the key of the call, so that a run that is executed again
    submits a duplicate."""
    line = branch.here()
    if line is None:
        return _Run(new_id(), "", None)
    if flow is not None:
        flow.check_stopped(line)
    parameters = spec.bind(args, kwargs)
    place = line.place(spec.identity, parameters, strict=spec.strict_inputs)
    call = None if flow is None else flow.delayed.call(spec, place, line.task, parameters)
    return _Run(place.key if call is None else call.run_id, place.content[:16], call)


def _submission(
    backend: Backend,
    codec: Codec,
    spec: TaskSpec,
    run_id: RunId,
    body: tuple[bytes, bytes],
    content: str,
    owner: RunId,
    delay: float = 0.0,
    group: str = "",
) -> Submission:
    identity = spec.identity
    key = values.arguments_key(run_id, identity)
    envelope = codec.seal(*body, "arguments", key)
    content = content or fingerprint(envelope)
    if len(envelope) > backend.settings.inline_bytes:
        envelope = values.to_store(backend, envelope, "arguments", key, owner)
    return Submission(run_id, identity, envelope, content, spec.queue, delay, spec.effect, spec.priority, group)


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
