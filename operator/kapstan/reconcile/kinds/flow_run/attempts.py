"""Judges one attempt of a flow run: does it run, how did it end, was it lost.

Called by the FlowRun reconciler. The run's own record has the first word, the journal in the store the last one; what
infrastructure says is never more than a reason to ask.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from kapstan.ports import AttemptEnd, AttemptObservation
from kapstan.reconcile.kinds.flow_run.observed import Record
from kapstan.resources import WorkPool
from kapstan.resources.flowrun import Attempt
from kapstan.resources.workpool import Deadlines
from kapstan.states import AttemptOutcome, ExitCode

KEPT = 32
"""How many attempts stay in the status; older ones stand in the run's record only."""

GRACE = 30.0
"""Seconds between SIGTERM and SIGKILL, unless the pool's podTemplate says otherwise."""
LINGER = timedelta(seconds=30)
"""How long a process may live on after its run has ended."""
LATE = timedelta(seconds=5)
"""How long after the end of its grace a process is seen to have ended where nothing is wrong."""
PENDING = timedelta(seconds=600)
"""How long a process may take to start where its pool sets no deadline, the wait for a node or a quota left out."""
RESYNC = timedelta(seconds=60)
"""How long a run with a process is left alone when nothing is heard of it."""

STOPPED_FOR = frozenset({"DeadlinePending", "DeadlineRunning"})
"""Reasons that the operator notes on an attempt before it stops it for good."""

_SHORTEST = timedelta(seconds=1)
_LONGEST = timedelta(seconds=60)


class Verdict(enum.Enum):
    """What is known of an attempt."""

    OPEN = enum.auto()
    ENDED = enum.auto()
    NOT_LAUNCHED = enum.auto()
    """Recorded, and then nothing happened: the launch may be made, or made again under the same name."""
    ASK_JOURNAL = enum.auto()
    UNKNOWN = enum.auto()
    """The journal must be read and cannot be."""


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    outcome: AttemptOutcome | None = None
    end: AttemptEnd | None = None


def grace_of(pool: WorkPool | None) -> float:
    """Seconds that an attempt in this pool gets between SIGTERM and SIGKILL: the termination grace of its pods."""
    spec = cast("dict[str, Any]", pool.spec.pod_template.get("spec") or {}) if pool is not None else {}
    return float(spec.get("terminationGracePeriodSeconds") or GRACE)


def overdue_since(seen: AttemptObservation, now: datetime) -> datetime | None:
    """When a process that was told to go should have ended, where that is over and its end is not seen."""
    late = late_at(seen)
    return None if late is None or now < late else late - LATE


def late_at(seen: AttemptObservation) -> datetime | None:
    """When a process that was told to go, and is not seen to end, is late."""
    stop_by = _moment(seen.stop_by)
    return None if stop_by is None or seen.ended else stop_by + LATE


def given_up_at(seen: AttemptObservation, pool: WorkPool | None) -> datetime | None:
    """When a process that was asked to go and is not seen to end counts as lost. Lease and journal fence it."""
    stop_by = _moment(seen.stop_by)
    deadlines = pool.spec.deadlines if pool is not None else Deadlines()
    return None if stop_by is None or seen.ended else stop_by + timedelta(seconds=deadlines.unreachable_seconds)


def judge(
    attempt: Attempt,
    seen: AttemptObservation,
    record: Record,
    now: datetime,
    *,
    launched: bool,
    pool: WorkPool | None,
) -> Judgement:
    """What is known of an open attempt.

    Args:
        pool: says how long an attempt that is not heard of is waited for.
        launched: whether the status says that its launch was answered.
    """
    recorded = record.of(attempt.number)
    if recorded is not None and recorded.end is not None:
        return Judgement(Verdict.ENDED, recorded.end.outcome, recorded.end)
    given_up = given_up_at(seen, pool)
    if seen.exists and not seen.ended and (given_up is None or now < given_up):
        return Judgement(Verdict.OPEN)
    if record.unreachable:
        return Judgement(Verdict.UNKNOWN)
    if not record.journal:
        return Judgement(Verdict.ASK_JOURNAL)
    if recorded is None and not seen.exists and not launched:
        return Judgement(Verdict.NOT_LAUNCHED)
    if seen.exit_code == ExitCode.HANDED_BACK:
        return Judgement(Verdict.ENDED, AttemptOutcome.HANDED_BACK)
    return Judgement(Verdict.ENDED, AttemptOutcome.LOST)


def closed(attempt: Attempt, seen: AttemptObservation, judgement: Judgement, now: datetime) -> Attempt:
    """The attempt as it stands in the status once it has ended."""
    ended_at = datetime.fromtimestamp(judgement.end.at, UTC) if judgement.end is not None else _moment(seen.finished_at)
    kept = attempt.reason if attempt.reason in STOPPED_FOR else None
    return seen_on(attempt, seen).model_copy(
        update={
            "outcome": judgement.outcome,
            "finished_at": ended_at or now,
            "reason": kept or seen.reason or ("Gone" if judgement.outcome == "Lost" and not seen.exists else None),
        }
    )


def seen_on(attempt: Attempt, seen: AttemptObservation) -> Attempt:
    """The attempt with what infrastructure says of it now; what it said before and does not say any more stays."""
    return attempt.model_copy(
        update={
            "pod": seen.pod or attempt.pod,
            "node": seen.node or attempt.node,
            "exit_code": seen.exit_code if seen.exit_code is not None else attempt.exit_code,
            "started_at": _moment(seen.started_at) or attempt.started_at,
        }
    )


def next_start(attempts: Sequence[Attempt]) -> datetime | None:
    """When the attempt after these may start: 1 s after a loss, doubling to 60 s; at once after one hand-back or one
    suspension."""
    if not attempts or attempts[-1].finished_at is None:
        return None
    last = attempts[-1]
    row = 0
    for attempt in reversed(attempts):
        if attempt.outcome != last.outcome:
            break
        row += 1
    if last.outcome in ("HandedBack", "Suspended"):
        row -= 1
    elif last.outcome != "Lost":
        row = 0
    delay = min(_SHORTEST * 2 ** min(row - 1, 10), _LONGEST) if row else timedelta()
    return attempts[-1].finished_at + delay


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
