"""Cache policies: which calls of a task share a result.

::

    @task(cache_policy=INPUTS + TASK_SOURCE, cache_expiration=timedelta(days=1))
    def load(day): ...

A policy makes a text of a call; calls of one task with equal texts share a result, whatever process makes them. The
task's identity is always part of the key, so two tasks never share one. Policies are plain values: they pickle to any
process and are equal when they say the same. See docs/caching.md.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Iterable
from typing import Any

from kapstan.engine import canonical
from kapstan.engine.cache_policy import (
    SETTINGS,
    CacheKeyFnPolicy,
    CachePolicy,
    Call,
    CompoundCachePolicy,
    NoCache,
    argument_name,
)
from kapstan.errors import ConfigurationError, UnkeyableInput
from kapstan.states import EffectClass

__all__ = [
    "DEFAULT",
    "FLOW_PARAMETERS",
    "INPUTS",
    "NONE",
    "NO_CACHE",
    "RUN_ID",
    "TASK_SOURCE",
    "CacheKeyFnPolicy",
    "CachePolicy",
    "CompoundCachePolicy",
    "FlowParameters",
    "Inputs",
    "NoCache",
    "RunId",
    "TaskSource",
    "task_input_hash",
]

logger = logging.getLogger("kapstan.tasks")


class Inputs(CachePolicy):
    """Calls with equal arguments share a result; those named in ``exclude`` do not count."""

    def __init__(self, exclude: Iterable[str] = ()) -> None:
        super().__init__()
        if isinstance(exclude, str):
            raise TypeError(f"exclude={exclude!r}: give a list of names, such as [{exclude!r}]")
        self.exclude = tuple(sorted({argument_name(name) for name in exclude}))

    def _key(self, call: Call, /) -> str | None:
        return "inputs-" + _digest(_without(self.exclude, call), call, "argument")

    def __sub__(self, name: str) -> CachePolicy:
        changed = copy.copy(self)
        changed.exclude = tuple(sorted({*self.exclude, argument_name(name)}))
        return changed

    def _shown(self) -> str:
        return " - ".join(["INPUTS", *map(repr, self.exclude)])


class TaskSource(CachePolicy):
    """A result is used as long as the task's code stays the same: its function, what that closes over, its defaults,
    and the functions, classes and constants of its package that it uses. ``kapstan task inspect`` shows them."""

    tells_inputs = False

    def _key(self, call: Call, /) -> str | None:
        from kapstan.engine.fingerprint import fingerprint

        return None if call.task_ctx is None else "source-" + fingerprint(call.task_ctx.task.spec).digest

    def _shown(self) -> str:
        return "TASK_SOURCE"


class RunId(CachePolicy):
    """A result is used within one flow run; outside of a flow within one task run, with its retries."""

    tells_inputs = False

    def _key(self, call: Call, /) -> str | None:
        if call.task_ctx is None:
            return None
        return "run-" + (call.task_ctx.task_run.flow_run_id or call.task_ctx.task_run.run_id)

    def _shown(self) -> str:
        return "RUN_ID"


class FlowParameters(CachePolicy):
    """Calls in flow runs with equal parameters share a result; outside of a flow it says nothing."""

    tells_inputs = False

    def _key(self, call: Call, /) -> str | None:
        if call.flow_parameters is None:
            return None
        return "flow-" + _digest(call.flow_parameters, call, "flow parameter")

    def _shown(self) -> str:
        return "FLOW_PARAMETERS"


INPUTS = Inputs()
TASK_SOURCE = TaskSource()
RUN_ID = RunId()
FLOW_PARAMETERS = FlowParameters()
NO_CACHE = NONE = NoCache()
DEFAULT = INPUTS + TASK_SOURCE + RUN_ID


def task_input_hash(context: Any, arguments: dict[str, Any]) -> str | None:
    """For ``cache_key_fn``: calls of one task with the same code and equal arguments share a result.

    Raises:
        UnkeyableInput: no key can stand for the content of an argument.
    """
    return (INPUTS + TASK_SOURCE).compute_key(context, arguments, None)


def settled(task: str, values: dict[str, Any]) -> dict[str, Any]:
    """The options of a task with ``cache_policy`` as it is in force.

    Args:
        values: options in the form that the engine reads.

    Raises:
        ConfigurationError: its effect is protected by a key, and ``persist_result=False`` lets nothing be kept.
    """
    policy, key_fn = values.get("cache_policy"), values.get("cache_key_fn")
    if key_fn is not None:
        if policy is not None:
            logger.warning("Task %s has both cache_policy and cache_key_fn: the function makes its keys", task)
        settings = {name: getattr(policy, name, None) for name in SETTINGS}
        policy = CacheKeyFnPolicy(key_fn).configure(**settings)
    if policy is not None and values.get("persist_result") is False and not getattr(policy, "never_caches", False):
        effect = values.get("effect", EffectClass.PURE)
        if effect is not EffectClass.PURE or getattr(policy, "lock_manager", None) is not None:
            raise ConfigurationError(
                f"task {task}: persist_result=False keeps no result, so nothing can tell that it was done; leave it out"
            )
        logger.warning("Task %s has persist_result=False: its cache policy is not used", task)
        policy = NO_CACHE
    return {**values, "cache_policy": policy}


def _without(excluded: tuple[str, ...], call: Call) -> dict[str, Any]:
    """The inputs without the arguments that do not count, those that went to ``**kwargs`` too."""
    if not excluded:
        return call.inputs
    kept = {name: value for name, value in call.inputs.items() if name not in excluded}
    parameters = () if call.task_ctx is None else call.task_ctx.task.spec.signature.parameters.values()
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD and parameter.name in kept:
            others = kept[parameter.name]
            kept[parameter.name] = {name: value for name, value in others.items() if name not in excluded}
    return kept


def _digest(named: dict[str, Any], call: Call, what: str) -> str:
    """
    Raises:
        UnkeyableInput: no key can stand for the content of one of them.
    """
    body, unkeyed = canonical.content(named)
    if not unkeyed:
        return hashlib.sha256(canonical.VERSION + body).hexdigest()
    task = "" if call.task_ctx is None else f"task {call.task_ctx.task.name}: "
    name, kinds = next((name, found) for name, value in named.items() if (found := canonical.unkeyable(value)))
    way_out = f'leave it out of the cache policy (- "{name}"), ' if what == "argument" else ""
    raise UnkeyableInput(
        f"{task}the {what} {name!r} holds {kinds[0]}, whose content no key can tell: {way_out}make the key yourself "
        "(cache_key_fn=...), or pass what it is made from"
    )
