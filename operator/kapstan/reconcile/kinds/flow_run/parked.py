"""A flow run that is parked: what it says of that, and when it is looked at again.

Its attempt has ended as Suspended: for an effect of which nobody knows whether it happened, or for something else that
only a person can decide. In the first case it goes on by itself once somebody has decided.
"""

from __future__ import annotations

import shlex
from datetime import datetime, timedelta

from kapstan import ids
from kapstan.ports import AttemptEnd, Doubt
from kapstan.reconcile.kinds.flow_run.step import IN_DOUBT, Step
from kapstan.reconcile.plan import EmitEvent

_SOONEST, _LATEST = timedelta(seconds=5), timedelta(seconds=60)
_SHOWN = 300  # characters of a task's name, which may have any length


def end_of(step: Step) -> AttemptEnd | None:
    """How the last attempt ended, where that was as Suspended and its record is known."""
    last = step.last
    if last is None or last.outcome != "Suspended":
        return None
    recorded = step.observed.record.of(last.number)
    return None if recorded is None else recorded.end


def is_decided(step: Step) -> bool:
    """Whether the last attempt waited for a decision that was made since, or a person asked to go on in spite of it."""
    last, end = step.last, end_of(step)
    if last is not None and last.number <= step.status.resumed_after:
        return True
    return end is not None and end.doubt is not None and not step.observed.in_doubt


def tell(step: Step) -> tuple[str, tuple[EmitEvent, ...]]:
    """Set the condition, or take it away; the sentence for the status ("": it is not known to be parked), and an Event
    where a condition is new."""
    end = end_of(step)
    if end is None or end.until is not None:
        return "", ()
    if end.doubt is None:
        run = step.observed.run.metadata.name
        return f"parked: {end.message}; look at it, then: kapstan flow-run resume {run}" if end.message else "", ()
    if not step.observed.in_doubt:
        step.conditions.drop(IN_DOUBT)
        return "", ()
    message, before = _told(end.doubt), _said(step)
    step.conditions.set(IN_DOUBT, True, "Parked", message)
    return message, () if _said(step) == before else (step.event("Warning", "Parked", message),)


def _said(step: Step) -> str | None:
    return next((condition.message for condition in step.conditions.items if condition.type == IN_DOUBT), None)


def look_again(step: Step) -> datetime | None:
    """When to see whether somebody has decided: soon, if it was parked just now; None: it waits for no such thing."""
    last, end = step.last, end_of(step)
    if last is None or last.finished_at is None or end is None or end.doubt is None or not step.observed.in_doubt:
        return None
    return step.now + min(max((step.now - last.finished_at) / 4, _SOONEST), _LATEST)


def _told(doubt: Doubt) -> str:
    try:
        run = str(ids.to_uuid(doubt.run_id))
    except (ValueError, LookupError):
        run = doubt.run_id[:_SHOWN]
    return (
        f"{doubt.task[:_SHOWN]} {run} is parked, and this run with it, until somebody decides whether its effect "
        f"happened: kapstan task-run resolve {shlex.quote(doubt.key)}"
    )
