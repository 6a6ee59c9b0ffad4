"""The key of a run: what its outcome stands under in the register. Calls with one key are one.

It is made of the task's identity, a kind, and a value of that kind, so that two tasks never share a key, and neither do
a cached call and a run that stands for itself.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from kapstan import settings
from kapstan.context import TaskRun, TaskRunContext, current_flow
from kapstan.engine import cache_policy, canonical
from kapstan.engine.execution import TaskExecution
from kapstan.errors import ConfigurationError, UnkeyableInput
from kapstan.specs import TaskSpec

logger = logging.getLogger("kapstan.task_runs")
Kind = Literal["user", "args", "run"]
"""What the value of a key is: the text of ``result_storage_key``, that of the cache policy, or the id of the run."""

_VERSION = b"1"


def key_text(identity: str, kind: Kind, value: str) -> str:
    """52 characters (a-z, 2-7) for a task, a kind and a value: equal for equal ones only."""
    parts = [part.encode(errors="surrogatepass") for part in (identity, kind, value)]
    body = _VERSION + b"".join([b"%d:%b" % (len(part), part) for part in parts])
    return base64.b32encode(hashlib.sha256(body).digest()).decode().rstrip("=").lower()


def key_of(execution: TaskExecution) -> str | None:
    """The key of a run whose arguments are resolved (behind the step ``inputs``); None: it has none and is not cached.

    A ``result_storage_key`` is the key, whatever the policy says. A task with an effect always has one: that of its
    cache policy, else of the run itself. Where no key can be made a
    ``pure`` task runs uncached, which is logged once.

    Raises:
        UnkeyableInput: no key can be made, and the task has an effect; the message names task, argument and way out.
        ConfigurationError: the same, for another reason.
    """
    spec = execution.spec
    if execution.storage_key:
        return key_text(spec.identity, "user", execution.storage_key)
    if spec.has_cache_policy and (spec.has_effect or not settings.current().disable_caching):
        try:
            value = value_of(spec, execution.args, execution.kwargs, execution.run)
        except Exception as error:
            if spec.has_effect:
                raise
            _warn(spec.name, error)
            return None
        if value is not None:
            return key_text(spec.identity, "args", value)
        if spec.has_effect:
            raise ConfigurationError(
                f"task {spec.name}: {spec.cache_policy!r} gives no key for this call, and what it does must not be "
                "done twice; give one that always makes a key, or none, which protects each run by itself"
            )
    return key_text(spec.identity, "run", execution.run.run_id) if spec.has_effect else None


def value_of(spec: TaskSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any], run: TaskRun) -> str | None:
    """What the cache policy makes of a call.

    Raises:
        UnkeyableInput: no key can stand for the content of an argument.
        ConfigurationError: the policy raises, or gives no text.
    """
    policy = spec.cache_policy
    if policy is None:
        return None
    flow = current_flow.get()
    parameters = spec.bind(args, kwargs)
    context = TaskRunContext(spec.task, run, parameters)
    try:
        value: Any = policy.compute_key(
            task_ctx=context, inputs=parameters, flow_parameters=None if flow is None else flow.parameters
        )
    except (UnkeyableInput, ConfigurationError):
        raise
    except Exception as error:
        raise ConfigurationError(f"task {spec.name}: {policy!r} raised {type(error).__name__}: {error}") from error
    if value is not None and (not isinstance(value, str) or not value):
        raise ConfigurationError(
            f"task {spec.name}: {spec.cache_policy!r} gave {value!r} as a key; give a text, or None"
        )
    return value


class Inputs(NamedTuple):
    """What a key does not tell of the arguments of its call."""

    digest: str = ""
    """"" where the key tells all that matters."""
    shown: str = ""
    values: Mapping[str, Any] = {}


def inputs_of(execution: TaskExecution) -> Inputs:
    """The arguments that two calls of this key must share, if the task has an effect: else the second would have the
    outcome of another request. Those of which no key can be made are not looked at."""
    spec = execution.spec
    may_differ = frozenset[str]() if execution.storage_key else cache_policy.may_differ(spec.cache_policy)
    if not spec.has_effect or may_differ is None:
        return Inputs()
    bound = spec.bind(execution.args, execution.kwargs)
    values = {name: value for name, value in bound.items() if name not in may_differ and not canonical.unkeyable(value)}
    version = canonical.VERSION.decode()
    return Inputs(f"{version}-{canonical.digest(values)}", canonical.described(values), values)


_warned: set[tuple[str, str]] = set()


def _warn(task: str, error: Exception) -> None:
    """Say once for each task and reason that it runs uncached."""
    if (task, str(error)) not in _warned and len(_warned) < 1000:
        _warned.add((task, str(error)))
        logger.warning("Task %s runs uncached: %s", task, str(error).removeprefix(f"task {task}: "))
