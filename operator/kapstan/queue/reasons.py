"""Why runs that are queued do not begin, as far as no record tells: limits without room, runs that they wait for.

For lists and details; decides nothing. What does stands in ``lua/turns.lua`` and ``lua/waits.lua``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kapstan.ids import RunId
from kapstan.queue.record import is_run_id
from kapstan.queue.wire import pack

if TYPE_CHECKING:
    from kapstan.queue.redis import RedisQueue

_SLOTS = re.compile(rb"\d{1,9}")
_PACE = re.compile(rb"(\d{1,15}\.\d+) (\d{1,15}\.\d+)")
_NUMBER = re.compile(rb"-?\d{1,16}(\.\d+)?")


class _Limit(NamedTuple):
    """Attributes:
    name: as the queue calls it: the task, or ``task||group``.
    slots: the option that limits runs at a time, and its number.
    """

    name: str
    slots: tuple[str, int] | None
    rate: str
    ahead: float
    """Milliseconds by which a run may be ahead of the rate; -1: there is no rate."""
    of: str


def limits_without_room(queue: RedisQueue, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Of these tasks and groups those whose runs a limit does not let begin now, with its name and number."""
    pairs = list(dict.fromkeys(wanted))
    tasks = list(dict.fromkeys(task for task, _ in pairs))
    told = queue.commands(
        [pack("HMGET", f"{queue.prefix}lim", *(f"{kind}:{task}" for kind in "crgh")) for task in tasks]
    )
    known = dict(zip(tasks, told, strict=True))
    limits = {pair: _limits_of(*pair, known[pair[0]]) for pair in pairs}
    distinct = list(dict.fromkeys(limit for some in limits.values() for limit in some))
    if not distinct:
        return {}
    now = _now(queue)
    asked = [
        pack(command, f"{queue.prefix}{kind}:{each.name}")
        for each in distinct
        for command, kind in (("SCARD", "cs"), ("GET", "rl"))
    ]
    answers = queue.commands(asked)
    full: dict[_Limit, str] = {}
    for limit, held, due in zip(distinct, answers[::2], answers[1::2], strict=True):
        if reason := _reason(limit, held, due, now):
            full[limit] = reason
    return {pair: full[limit] for pair, some in limits.items() for limit in some[::-1] if limit in full}


def _limits_of(task: str, group: str, fields: Sequence[bytes | None]) -> list[_Limit]:
    found: list[_Limit] = []
    for name, (slots, pace), prefix, of in (
        (task, fields[:2], "", task),
        (f"{task}||{group}", fields[2:], "group_", f"group {group!r}"),
    ):
        if prefix and not group:
            continue
        number = int(slots) if slots and _SLOTS.fullmatch(slots) else None
        rate = _PACE.fullmatch(pace) if pace else None
        if number is not None or rate:
            held = None if number is None else (f"{prefix}concurrency_limit", number)
            found.append(_Limit(name, held, f"{prefix}rate_limit", float(rate[2]) if rate else -1.0, of))
    return found


def _reason(limit: _Limit, held: Any, due: Any, now: float) -> str:
    if limit.slots is not None and isinstance(held, int) and held >= limit.slots[1]:
        return f"{limit.slots[0]}={limit.slots[1]} of {limit.of}"
    if limit.ahead >= 0 and due and _NUMBER.fullmatch(due) and (left := float(due) - limit.ahead - now) > 0:
        return f"{limit.rate} of {limit.of}, the next may begin in {left / 1000:.1f} s"
    return ""


def _now(queue: RedisQueue) -> float:
    """Milliseconds by the clock of the namespace."""
    (seconds, micros), shift = queue.commands([pack("TIME"), pack("HGET", f"{queue.prefix}m", "shift")])
    return int(seconds) * 1000 + int(micros) / 1000 + (float(shift) if shift and _NUMBER.fullmatch(shift) else 0.0)


def awaited(value: bytes | None) -> tuple[RunId, ...]:
    """The runs for which a run waits, from its field of ``aw``."""
    return tuple(each.decode() for each in (value or b"").split(b",") if is_run_id(each))
