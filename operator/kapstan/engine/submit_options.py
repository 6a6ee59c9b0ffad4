"""How a run is submitted: when it may start, by when it must have begun, and which others it is one with.

``Task.apply_async`` makes ``SubmitOptions`` of what its caller says and of the options of the task; ``submission``
turns them into a ``ports.Submission``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from kapstan import durability as levels
from kapstan import ids
from kapstan.context import current_flow
from kapstan.durability import Durability
from kapstan.engine import option_checks as checks
from kapstan.engine import queue_options
from kapstan.engine.pending import Resolvable
from kapstan.errors import ConfigurationError
from kapstan.ids import RunId
from kapstan.specs import TaskSpec
from kapstan.states import State


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitOptions:
    """
    Attributes:
        delay: seconds until the run may start.
        expires: seconds until it must have begun; None: no matter when.
        idempotency_key: one key is one run.
        after: background runs that must have completed before.
        replace_key: a run of the same task and key that still waits is replaced by this one.
        durability: None for that of the settings.
    """

    queue: str = "default"
    priority: int = 0
    group: str | None = None
    delay: float = 0.0
    expires: float | None = None
    idempotency_key: str | None = None
    after: tuple[RunId, ...] = ()
    replace_key: str | None = None
    durability: Durability | None = None


PLAIN = SubmitOptions()


def of_task(spec: TaskSpec) -> SubmitOptions:
    """Those of ``.delay()`` and deferred maps: what the task says."""
    if spec.expires is None and spec.priority == 0 and spec.queue == "default" and spec.durability is None:
        return PLAIN
    return SubmitOptions(queue=spec.queue, priority=spec.priority, expires=spec.expires, durability=spec.durability)


def of_call(
    spec: TaskSpec,
    *,
    countdown: float,
    eta: datetime | None,
    expires: float | timedelta | datetime | None,
    idempotency_key: str | None = None,
    wait_for: Iterable[Any] | None = None,
    replace_key: str | None = None,
    queue: str | None = None,
    priority: int | None = None,
    group: str | None = None,
    durability: Durability | str | None = None,
) -> SubmitOptions:
    """Those of ``apply_async``. Waits for what is in ``wait_for`` and runs in this process.

    Raises:
        ConfigurationError: one that cannot be, or two that contradict each other; the message names them.
    """
    delay = delay_of(countdown, eta)
    within = spec.expires if expires is None else _within(expires)
    if within is not None and delay >= within and not (isinstance(expires, datetime) and within == 0):
        given = f"eta={eta!r}" if countdown == 0 else f"countdown={countdown!r}"
        by = f"expires={expires!r}" if expires is not None else f"expires={within!r} of the task"
        raise ConfigurationError(f"{given} and {by}: the run could never begin; let it expire later")
    after = () if wait_for is None else background_runs(wait_for)
    key = None if idempotency_key is None else _key(idempotency_key)
    if replace_key is not None and key is not None:
        raise ConfigurationError(
            f"idempotency_key={key!r} and replace_key={replace_key!r}: give one of them; the first keeps the run "
            "that is there, the second replaces it"
        )
    replaces = None if replace_key is None else _key(replace_key, "replace_key=")
    return SubmitOptions(
        queue=spec.queue if queue is None else queue_options.queue("queue", queue),
        priority=spec.priority if priority is None else queue_options.priority("priority", priority),
        group=None if group is None else queue_options.group("group", group),
        delay=delay,
        expires=within,
        idempotency_key=key,
        after=after,
        replace_key=replaces,
        durability=spec.durability if durability is None else levels.durability("durability", durability),
    )


def keys_of(keys: Sequence[str], calls: int) -> list[str]:
    """The idempotency keys of a bulk submit.

    Raises:
        ConfigurationError: not one for each call, or one twice.
    """
    found = [str(_key(key, "idempotency_keys: ")) for key in keys]
    if len(found) != calls:
        raise ConfigurationError(f"idempotency_keys: {len(found)} for {calls} calls; give one for each")
    if len(set(found)) != calls:
        twice = next(key for at, key in enumerate(found) if key in found[:at])
        raise ConfigurationError(f"idempotency_keys: {twice!r} stands there twice")
    return found


def background_runs(wait_for: Iterable[Any]) -> tuple[RunId, ...]:
    """The background runs among futures, states and ids, each once; waits for the others.

    Raises:
        ConfigurationError: something else; more than 1,000.
        Exception: that of a run that did not complete, of those that this process waits for.
    """
    found: dict[RunId, None] = {}
    left: list[Any] = [wait_for]
    seen: dict[int, Any] = {}  # containers, which may contain themselves
    while left:
        item = left.pop()
        if id(item) in seen:
            continue
        if isinstance(item, Iterable) and not isinstance(item, (str, bytes)):
            seen[id(cast("Any", item))] = item
        if isinstance(item, dict):
            left += [*cast("dict[Any, Any]", item).values()][::-1]
        elif isinstance(item, Iterable) and not isinstance(item, (str, bytes)):
            left += [*cast("Iterable[Any]", item)][::-1]
        elif (run_id := _background_run(item)) is not None:
            found[run_id] = None
    if len(found) > MOST_AWAITED:
        raise ConfigurationError(f"wait_for: {len(found)} runs; give at most {MOST_AWAITED}")
    return tuple(found)


def delay_of(countdown: float, eta: datetime | None) -> float:
    """Seconds until a run may start, from either.

    Raises:
        ConfigurationError: both are given, or one that says no moment.
    """
    delay = checks.number("countdown", countdown)
    if eta is None:
        return delay
    if delay:
        raise ConfigurationError(f"countdown={countdown!r} and eta={eta!r}: give one of them")
    return _until("eta", eta)


def seconds_to_begin(option: str, value: Any) -> float:
    """The seconds in a timedelta, or a number of them.

    Raises:
        ConfigurationError: neither, or not above 0.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= _LONGEST:
        raise ConfigurationError(f"{option}={value!r}: give a timedelta or seconds, above 0 and at most ten years")
    return float(seconds)


_LONGEST = 10 * 365 * 86_400
MOST_AWAITED = 1000
"""Most runs that one run waits for."""


def _background_run(item: Any) -> RunId | None:
    """The run that is to be waited for; None: it is over, and completed."""
    if isinstance(item, (str, UUID)):
        try:
            return ids.parse(item)
        except ValueError:
            raise ConfigurationError(f"wait_for={item!r}: give futures, or ids of background runs") from None
    if isinstance(item, State):
        ended = item
    elif not isinstance(item, Resolvable):
        raise ConfigurationError(f"wait_for={item!r}: give futures, or ids of background runs")
    elif not item.is_background:
        ended = item.final_state()
    elif (ended := _journalled(item.memo_reference)) is None:
        return item.memo_reference
    if not ended.is_completed():
        ended.result()
    return None


def _journalled(run_id: RunId) -> State | None:
    """How a background run ended, where the flow that runs here knows: the queue may have forgotten it."""
    flow = current_flow.get()
    while flow is not None:
        if (known := flow.delayed.state(run_id)) is not None:
            return known
        flow = flow.parent
    return None


def _within(expires: float | timedelta | datetime) -> float:
    if isinstance(expires, datetime):
        return _until("expires", expires)
    return seconds_to_begin("expires", expires)


def _until(option: str, moment: Any) -> float:
    """Seconds until a moment, 0 if it has passed, by this machine's clock."""
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ConfigurationError(
            f"{option}={moment!r}: give a datetime with a time zone, such as datetime.now(UTC) + delta"
        )
    seconds = max(0.0, moment.timestamp() - time.time())
    if seconds > _LONGEST:
        raise ConfigurationError(f"{option}={moment!r}: give a moment within the next ten years")
    return seconds


def _key(value: Any, what: str = "idempotency_key=") -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{what}{value!r}: give a text that is not empty")
    return checks.text(what, value)
