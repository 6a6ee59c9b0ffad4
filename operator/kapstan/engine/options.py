"""The options of ``@task`` and ``@flow``. Each stands here once, with the types it takes, its check and its meaning.

The signatures of the decorators, of ``Task``, ``Flow`` and their ``with_options`` follow from ``TaskOptions`` and
``FlowOptions``, and so do the checks. The form that the engine reads, which the attributes of ``Task`` and ``Flow``
show, stands in ``specs.TaskPolicy`` and ``specs.FlowPolicy`` under the same names.
"""

# No `from __future__ import annotations` here: the checks are read from the annotations.

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Protocol, TypedDict

from kapstan import run_limits, serializers
from kapstan.durability import Durability, durability
from kapstan.engine import queue_options, storages
from kapstan.engine.cache_options import CacheKey, CachePolicy, cache_key_fn, cache_policy, expiration
from kapstan.engine.effect_options import effect_class, probe
from kapstan.engine.hook_options import Hooks, hooks
from kapstan.engine.option_checks import (
    condition,
    delays,
    flag,
    number,
    run_name,
    task_runner,
    text,
    time_limit,
    whole,
)
from kapstan.engine.submit_options import seconds_to_begin
from kapstan.serializers import Serializer
from kapstan.states import EffectClass, State
from kapstan.tag_checks import checked_tags

RetryDelays = float | Sequence[float] | Callable[[int], Iterable[float]]
RunName = str | Callable[..., str]
Group = str | Callable[..., str | None]
RetryCondition = Callable[[Any, Any, State], Any]
"""(task, task run, state) -> whether to retry; may be a coroutine function."""


class ReadsAndWrites(Protocol):
    """An object that results may be put in; the methods may be async. ``read_path`` raises FileNotFoundError or
    KeyError where nothing is."""

    def read_path(self, path: str) -> Any: ...
    def write_path(self, path: str, content: bytes) -> Any: ...


ResultStorage = str | Path | ReadsAndWrites


class TaskRunner(Protocol):
    """Says how many submitted tasks of a flow run at a time."""

    @property
    def max_workers(self) -> int | None: ...


# ---------------------------------------------------------------------------------------------- the options
# name: Annotated[what it takes, check, meaning]. None always means the default.


class TaskOptions(TypedDict, total=False):
    """What ``@task``, ``Task`` and ``Task.with_options`` take; each option's meaning stands beside it."""

    name: Annotated[
        str | None,
        text,
        "What people read, and the identity that queue and journal carry. Default: the function's name; the identity "
        "is then `module:qualname`.",
    ]
    description: Annotated[str | None, text, "For people. Default: the docstring."]
    tags: Annotated[Iterable[str] | None, checked_tags, "For people and filters, beside those of `with tags(...)`."]
    version: Annotated[str | None, text, "For people and filters."]
    retries: Annotated[
        int | None, whole, "How often it runs again after an exception. Default: `KAPSTAN_DEFAULT_RETRIES`."
    ]
    retry_delay_seconds: Annotated[
        RetryDelays | None,
        delays,
        "Seconds before a retry: a number, a list (its last repeats), or a function retries -> list. Default: "
        "`KAPSTAN_DEFAULT_RETRY_DELAY_SECONDS`.",
    ]
    retry_jitter_factor: Annotated[
        float | None, number, "Prolongs each delay at random, by up to this part of it. Default: 0."
    ]
    retry_condition_fn: Annotated[
        RetryCondition | None,
        condition,
        "(task, task run, state) -> whether to retry. An error in it is logged and means no.",
    ]
    timeout_seconds: Annotated[
        float | None,
        time_limit,
        "After so many seconds the run fails with `TaskTimeout`. On a thread other than the main one a blocking call "
        "outside Python's control ends first. 0: no limit.",
    ]
    log_prints: Annotated[
        bool | None, flag, "Whether `print` becomes a log line. Default: as the flow, else `KAPSTAN_LOG_PRINTS`."
    ]
    persist_result: Annotated[
        bool | None,
        flag,
        "False keeps the result out of journal and queue: a resumed flow runs the task again. True: the result of a "
        "background run outlives the queue's record of it.",
    ]
    queue: Annotated[
        str | None,
        queue_options.queue,
        "In which queue its background runs wait, for workers that serve that queue. Default: `default`.",
    ]
    priority: Annotated[
        int | None,
        queue_options.priority,
        "-100 to 100: of its background runs that wait in one queue those of greater priority begin first; every tenth "
        "turn goes to what has waited longest for one. Default: 0.",
    ]
    group: Annotated[
        Group | None,
        run_name,
        "Template (`{tenant}`) or function of the parameters: to which group a background run belongs. Groups take "
        "turns, so that one with many runs does not keep those of others waiting. Default: no group.",
    ]
    concurrency_limit: Annotated[
        int | None,
        run_limits.slots,
        "At most so many of its background runs at a time, on all workers together. Default: no limit.",
    ]
    rate_limit: Annotated[
        str | run_limits.RateLimit | None,
        run_limits.rate,
        "`100/m`: at most so many of its background runs begin in any second (s), minute, hour or day, evenly spread. "
        "Default: no limit.",
    ]
    group_concurrency_limit: Annotated[
        int | None, run_limits.slots, "As `concurrency_limit`, for the runs of each group. Default: no limit."
    ]
    group_rate_limit: Annotated[
        str | run_limits.RateLimit | None,
        run_limits.rate,
        "As `rate_limit`, for the runs of each group. Default: no limit.",
    ]
    result_storage: Annotated[
        ResultStorage | None,
        storages.address,
        "Where its results go, whatever their size: a folder, `s3://bucket/prefix`, or an object with `read_path` and "
        "`write_path`. Default: as the flow, else `KAPSTAN_RESULT_STORAGE`.",
    ]
    result_storage_key: Annotated[
        str | None,
        storages.template,
        "Template of a key (`report-{parameters[day]}`) under which its results also stand in that storage, for "
        "`ResultStore.read`. Fields: parameters, flow_run, task_run, deployment.",
    ]
    result_serializer: Annotated[
        Serializer | str | None,
        serializers.checked,
        "`json`, `pickle`, `compressed/json`, `compressed/pickle`, or a Serializer. Default: as the flow, else "
        "`KAPSTAN_RESULT_SERIALIZER`.",
    ]
    task_run_name: Annotated[RunName | None, run_name, "Template (`charge-{user}`) or function for the names of runs."]
    cache_policy: Annotated[
        CachePolicy | None,
        cache_policy,
        "Which calls share a result, of `kapstan.cache_policies`, such as `INPUTS + TASK_SOURCE`. Default: none do; "
        "a resumed flow replays its own calls all the same.",
    ]
    cache_key_fn: Annotated[
        CacheKey | None,
        cache_key_fn,
        "(context, parameters) -> the key of a call, or None: it is not cached. Wins over `cache_policy`.",
    ]
    cache_expiration: Annotated[
        timedelta | float | None,
        expiration,
        "How long a cached result is used: a timedelta, or seconds. Default: without end.",
    ]
    refresh_cache: Annotated[
        bool | None,
        flag,
        "True: a cached result is not used; the task runs, and its result replaces that one. Default: "
        "`KAPSTAN_REFRESH_CACHE`; of a task with an effect False.",
    ]
    cache_result_in_memory: Annotated[
        bool | None, flag, "False: this process keeps no copy of a result that is stored. Default: True."
    ]
    on_commit: Annotated[
        Hooks | None, hooks, "Functions of the transaction, called when the task is committed with it. Default: none."
    ]
    on_rollback: Annotated[
        Hooks | None, hooks, "Functions of the transaction, called when the task is undone with it. Default: none."
    ]
    effect: Annotated[
        EffectClass | str | None,
        effect_class,
        "What may happen if its code runs twice: `pure` (nothing), `idempotent` (the receiver recognises a "
        "repetition by `idempotency_key`), `at_most_once` (it must never; in doubt the run parks), `transactional` "
        "(effect and record are one transaction of a database). Default: `pure`.",
    ]
    exactly_once: Annotated[bool | None, flag, "True: `effect` is `at_most_once`, unless it names another class."]
    probe: Annotated[
        Callable[[str], Any] | None,
        probe,
        "idempotency key -> whether the effect of a run in doubt happened: the result (or `Completed(data=...)`), "
        "False if it did not, None if that is not known.",
    ]
    effect_horizon: Annotated[
        float | None,
        number,
        "Seconds for which a request of a dead process may still arrive: no sooner counts that an effect did not "
        "happen. Default: 60.",
    ]
    key_retention: Annotated[
        float | None,
        number,
        "Seconds for which the receiver of an `idempotent` task knows its keys: a run that was broken off is not "
        "repeated later. Default: 82800 (23 hours).",
    ]
    expires: Annotated[
        timedelta | float | None,
        seconds_to_begin,
        "How long a background run may wait: one that was not begun by then is cancelled (`Expired`). A timedelta, or "
        "seconds. Default: without end.",
    ]
    durability: Annotated[
        Durability | str | None,
        durability,
        "Where a background run stands before its submit is answered: `redis`; `aof`: Redis has synced it to its disk; "
        "`store`: in the object store, from which it can be submitted again. Default: `KAPSTAN_DURABILITY`.",
    ]


class FlowOptions(TypedDict, total=False):
    """What ``@flow``, ``Flow`` and ``Flow.with_options`` take; each option's meaning stands beside it."""

    name: Annotated[str | None, text, "What people read. Default: the function's name."]
    description: Annotated[str | None, text, "For people. Default: the docstring."]
    tags: Annotated[
        Iterable[str] | None,
        checked_tags,
        "For people and filters: of its runs and of what they call, beside those of `with tags(...)`.",
    ]
    version: Annotated[str | None, text, "For people and filters."]
    flow_run_name: Annotated[
        RunName | None,
        run_name,
        "Template (`etl-{date}`) or function for the names of runs. Default: two random words.",
    ]
    retries: Annotated[
        int | None, whole, "How often the function runs again, in the same process, after it raised. Default: 0."
    ]
    retry_delay_seconds: Annotated[
        RetryDelays | None,
        delays,
        "Seconds before a retry: a number, a list (its last repeats), or a function retries -> list. Default: 0.",
    ]
    task_runner: Annotated[
        TaskRunner | None,
        task_runner,
        "`ThreadPoolTaskRunner(max_workers=...)`: how many submitted tasks run at a time.",
    ]
    timeout_seconds: Annotated[
        float | None, time_limit, "After so many seconds the run fails with `TaskTimeout`. 0: no limit."
    ]
    validate_parameters: Annotated[
        bool | None,
        flag,
        'Whether arguments are made the types of the annotations (`"5"` becomes 5). Default: True.',
    ]
    persist_result: Annotated[bool | None, flag, "False: what the flow returns is not stored."]
    result_storage: Annotated[
        ResultStorage | None,
        storages.address,
        "Where its result goes, and those of the tasks that it calls: as of a task.",
    ]
    result_serializer: Annotated[
        Serializer | str | None, serializers.checked, "Of its result, and of those of the tasks that it calls."
    ]
    log_prints: Annotated[bool | None, flag, "Whether `print` becomes a log line. Default: `KAPSTAN_LOG_PRINTS`."]


# ---------------------------------------------------------------------------------------------- reading them


def checked(where: str, kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` in the form that the engine reads, those that are None left out.

    Args:
        kind: TaskOptions or FlowOptions.

    Raises:
        TypeError: an option that ``kind`` does not have, naming the nearest one.
        ConfigurationError: a value that does not fit; the message names option, value and what fits.
    """
    known = kind.__annotations__
    for option in options.keys() - known.keys():
        near = difflib.get_close_matches(option, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}"
        raise TypeError(f"{where} has no option {option!r}; {hint}")
    return {
        option: known[option].__metadata__[0](option, value) for option, value in options.items() if value is not None
    }


def policy(where: str, kind: type, options: Mapping[str, Any], **defaults: Any) -> dict[str, Any]:
    """As ``checked``, without the name, over ``defaults``, and with the delays worked out.

    Raises:
        TypeError, ConfigurationError: as ``checked``.
    """
    values = {**defaults, **checked(where, kind, options)}
    values.pop("name", None)
    given = values.get("retry_delay_seconds")
    if callable(given):
        values["retry_delay_seconds"] = delays("retry_delay_seconds", given(values.get("retries", 0)))
    return values


def exponential_backoff(backoff_factor: float) -> Callable[[int], list[float]]:
    """For ``retry_delay_seconds``: ``backoff_factor * 2**i`` seconds before retry ``i`` (from 0).

    Raises:
        ConfigurationError: a negative factor.
    """
    number("exponential_backoff: backoff_factor", backoff_factor)
    return lambda retries: [backoff_factor * max(0, 2**i) for i in range(retries)]
