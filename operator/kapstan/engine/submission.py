"""Hands background runs to the queue: ``.delay()``, ``.apply_async()``, deferred maps, ``.submit()`` outside a flow.

Inside a flow the run's id is its memo key, so that a resumed flow's submit is a duplicate of the first one and not a
second run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from kapstan import backend as backends
from kapstan.backend import Backend
from kapstan.codec import PICKLE, Codec, fingerprint, sealed_size
from kapstan.context import current_flow
from kapstan.durability import Durability
from kapstan.engine import branch, canonical, forks, naming, values
from kapstan.engine.pending import promises
from kapstan.engine.stored_submits import StoredSubmits
from kapstan.engine.submit_options import MOST_AWAITED, SubmitOptions, of_task
from kapstan.engine.upstream import AFTER
from kapstan.errors import ConfigurationError, IdempotencyConflict, SerializationError
from kapstan.identity import unfindable
from kapstan.ids import RunId, derived_id, new_id, new_ids, to_uuid
from kapstan.ports import Submission
from kapstan.specs import TaskSpec

if TYPE_CHECKING:
    from kapstan.engine.delayed import DelayedCall
    from kapstan.engine.flow_run import FlowRun

Call = tuple[tuple[Any, ...], dict[str, Any]]
_LEVELS = {level.value: level for level in Durability}


def submit(
    spec: TaskSpec,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: SubmitOptions | None = None,
    *,
    named: Callable[[RunId], object] = lambda _: None,
) -> RunId:
    """Submit one run; its id.

    Args:
        options: None for those that the task itself has.
        named: called with the id before the queue is given the run.

    Raises:
        ConfigurationError: the task is a lambda or a local function without a name, which no worker finds.
        ParameterError: the arguments do not fit.
        SerializationError, ValueTooLarge: they cannot be sent; the message names the argument.
        IdempotencyConflict: the key was used for other arguments.
        QueueUnavailable: the run may or may not have been accepted.
    """
    backend = backends.current()
    options = options or of_task(spec)
    flow: FlowRun | None = current_flow.get()
    if flow is None:
        forks.check_call(f"{spec.name}.delay()")
    codec = backend.codec
    body = _serialised(codec, spec, args, kwargs, flow, options)
    if options.replace_key is not None:
        return _replace(backend, spec, body, _of_call(options, spec, body, args, kwargs), flow, options.replace_key)
    run = _run_of(spec, args, kwargs, flow, options.idempotency_key)
    if run.call is not None and not run.call.submit:
        return run.run_id
    submission = _submission(backend, codec, spec, run, body, _of_call(options, spec, body, args, kwargs))
    named(run.run_id)
    try:
        if submission.durability is Durability.STORE:
            _stored(backend, spec, derived=run.content != "").submit(submission)
        else:
            backend.queue.submit(submission)
    except IdempotencyConflict as error:
        raise _conflict(error, spec, {run.run_id: options.idempotency_key}) from None
    if flow is not None and run.call is not None:
        flow.delayed.submitted(run.call)
    return run.run_id


def _replace(
    backend: Backend, spec: TaskSpec, body: tuple[bytes, bytes], options: SubmitOptions, flow: FlowRun | None, key: str
) -> RunId:
    if flow is not None:
        raise ConfigurationError(
            f"replace_key={key!r} of {spec.name} in a flow: a flow submits each of its runs once, and replaces none"
        )
    if _level(backend, options) is Durability.STORE:
        raise ConfigurationError(
            f"replace_key={key!r} and durability='store' of {spec.name}: a run in the store is not replaced; give "
            "durability='aof' or 'redis', or leave replace_key out"
        )
    digest = hashlib.sha256(f"{spec.identity}\0{options.queue}\0{key}".encode()).hexdigest()[:40]
    return backend.queue.replace(
        digest, lambda run_id: _submission(backend, backend.codec, spec, _Run(run_id, "", None), body, options)
    )[0]


def submit_many(
    spec: TaskSpec, calls: Sequence[Call], options: SubmitOptions | None = None, keys: Sequence[str] | None = None
) -> list[RunId]:
    """Submit one run for each of ``calls``, in order; raises as ``submit``. If one cannot be sent, none is submitted;
    large arguments that were stored before stay, until retention takes them.

    Args:
        keys: the idempotency key of each.

    Raises:
        IdempotencyConflict: keys were used for other arguments; all others were submitted.
    """
    backend = backends.current()
    codec = backend.codec
    options = options or of_task(spec)
    flow: FlowRun | None = current_flow.get()
    if flow is None:
        forks.check_call(f"{spec.name}.map(deferred=True)")
    bodies = [_serialised(codec, spec, args, kwargs, flow, options) for args, kwargs in calls]
    if branch.here() is None and keys is None:
        runs = [_Run(run_id, "", None) for run_id in new_ids(len(calls))]
    else:
        known = keys or [None] * len(calls)
        runs = [_run_of(spec, *call, flow, key) for call, key in zip(calls, known, strict=True)]
    try:
        made = _drawn(backend, spec, runs, bodies, calls, options)
        if _level(backend, options) is Durability.STORE:
            _stored(backend, spec, derived=any(run.content for run in runs)).submit_many(made)
        else:
            backend.queue.submit_many(made)
    except IdempotencyConflict as error:
        raise _conflict(error, spec, {run.run_id: key for run, key in zip(runs, keys or (), strict=False)}) from None
    for run in runs:
        if flow is not None and run.call is not None and run.call.submit:
            flow.delayed.submitted(run.call)
    return [run.run_id for run in runs]


def _drawn(
    backend: Backend,
    spec: TaskSpec,
    runs: Sequence[_Run],
    bodies: list[tuple[bytes, bytes]],
    calls: Sequence[Call],
    options: SubmitOptions,
) -> Iterator[Submission]:
    """The submissions, which the queue draws while Redis works on the ones before. What may fail is done before that:
    groups are named, and large arguments go to the store."""
    chosen = [at for at, run in enumerate(runs) if run.call is None or run.call.submit]
    wishes = [_of_call(options, spec, bodies[at], *calls[at]) for at in chosen]
    for at, wished in zip(chosen, wishes, strict=True):
        _check_awaited(spec, runs[at], wished)
    codec, inline_bytes = backend.codec, backend.settings.inline_bytes
    stored: dict[int, Submission] = {}
    for at, wished in zip(chosen, wishes, strict=True):
        if sealed_size(bodies[at][1]) > inline_bytes:
            stored[at] = _submission(backend, codec, spec, runs[at], bodies[at], wished)
            bodies[at] = (b"", b"")

    def drawn() -> Iterator[Submission]:
        for at, wished in zip(chosen, wishes, strict=True):
            if at in stored:
                yield stored.pop(at)
            else:
                yield _submission(backend, codec, spec, runs[at], bodies[at], wished)

    return drawn()


def _check_awaited(spec: TaskSpec, run: _Run, options: SubmitOptions) -> None:
    if run.run_id in options.after:
        raise ConfigurationError(f"wait_for: run {to_uuid(run.run_id)} of {spec.name} would wait for itself")


def _conflict(error: IdempotencyConflict, spec: TaskSpec, keys: Mapping[RunId, str | None]) -> IdempotencyConflict:
    """``error`` with the keys of the runs that it names."""
    used = [key for run_id, key in keys.items() if key is not None and run_id in str(error)]
    if not used:
        return error
    return IdempotencyConflict(
        f"idempotency_key {', '.join(map(repr, used))} of {spec.name} was used with other arguments: {error}"
    )


def _of_call(
    options: SubmitOptions, spec: TaskSpec, body: tuple[bytes, bytes], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> SubmitOptions:
    """``options`` with what follows from the arguments: the group, and that a run whose arguments stand for other runs
    starts when those have completed. Futures are never JSON."""
    if options.group is None and spec.group is not None:
        options = replace(options, group=naming.group(spec.group, spec.bind(args, kwargs)))
    if body[0] != PICKLE:
        return options
    inside = [found.memo_reference for found in promises([args, kwargs]) if found.is_background]
    return replace(options, after=tuple(dict.fromkeys((*options.after, *inside)))[:MOST_AWAITED]) if inside else options


def _serialised(
    codec: Codec,
    spec: TaskSpec,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    flow: FlowRun | None,
    options: SubmitOptions,
) -> tuple[bytes, bytes]:
    """Serializer and body of the arguments, which fit, of a task that workers can find."""
    if "<" in spec.identity and (reason := unfindable(spec.identity, spec.fn)):
        raise ConfigurationError(f"task {spec.name} cannot run in the background: {reason}")
    least, most = spec.arity
    if kwargs or not least <= len(args) <= most:  # else they fit; binding costs as much as all the rest of this
        spec.bind(args, kwargs)
    arguments: list[Any] = [list(args), kwargs]
    origin: dict[str, Any] = {}
    if flow is not None and options.idempotency_key is None:
        origin["flow_run"] = flow.run_id
    if options.after:
        origin[AFTER] = list(options.after)
    if origin:
        arguments.append(origin)
    try:
        return codec.serialise(arguments, f"the arguments of {spec.name}")
    except SerializationError as error:
        raise _blamed(codec, error, spec, spec.bind(args, kwargs)) from error


class _Run(NamedTuple):
    """Attributes:
    content: what tells the arguments, "" for whatever they are serialised to.
    call: what the flow that makes the call knows of it.
    owner: the flow run whose journal may refer to it.
    """

    run_id: RunId
    content: str
    call: DelayedCall | None
    owner: RunId = ""


def _run_of(
    spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any], flow: FlowRun | None, key: str | None
) -> _Run:
    """The run that a call submits. Inside a run its id is the key of the call, so that a run that is executed again
    submits a duplicate; so it is with an idempotency key, whoever makes the call."""
    if key is not None:
        run_id = derived_id("idempotency key", backends.current().settings.namespace, spec.identity, key)
        return _Run(run_id, canonical.digest(spec.bind(args, kwargs))[:16], None)
    line = branch.here()
    if line is None:
        return _Run(new_id(), "", None)
    if flow is not None:
        flow.check_stopped(line)
    parameters = spec.bind(args, kwargs)
    place = line.place(spec.identity, parameters, strict=spec.strict_inputs)
    call = None if flow is None else flow.delayed.call(spec, place, line.task, parameters)
    if call is None or flow is None:
        return _Run(place.key, place.content[:16], None)
    return _Run(call.run_id, place.content[:16], call, flow.run_id)


def _submission(
    backend: Backend, codec: Codec, spec: TaskSpec, run: _Run, body: tuple[bytes, bytes], options: SubmitOptions
) -> Submission:
    identity, run_id = spec.identity, run.run_id
    _check_awaited(spec, run, options)
    key = values.arguments_key(run_id, identity)
    envelope = codec.seal(*body, "arguments", key)
    content = run.content or fingerprint(envelope)
    if len(envelope) > backend.settings.inline_bytes:
        envelope = values.to_store(backend, envelope, "arguments", key, run.owner)
    return Submission(
        run_id,
        identity,
        envelope,
        content,
        options.queue,
        options.delay,
        spec.effect,
        options.priority,
        options.group or "",
        options.expires,
        options.after,
        _level(backend, options),
    )


def _level(backend: Backend, options: SubmitOptions) -> Durability:
    return options.durability or _LEVELS[backend.settings.durability]


def _stored(backend: Backend, spec: TaskSpec, *, derived: bool) -> StoredSubmits:
    return StoredSubmits(backend, persists=spec.persist_result is True, derived=derived)


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
