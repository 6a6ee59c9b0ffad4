"""An attempt is recorded and has not ended: watch it, stop it where that is wanted, or launch it after all."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from kapstan.ports import AttemptObservation
from kapstan.reconcile.kinds.flow_run import diagnosis
from kapstan.reconcile.kinds.flow_run.actions import StopAttempt
from kapstan.reconcile.kinds.flow_run.attempts import (
    PENDING,
    RESYNC,
    STOPPED_FOR,
    Judgement,
    Verdict,
    given_up_at,
    grace_of,
    judge,
    late_at,
    overdue_since,
    seen_on,
)
from kapstan.reconcile.kinds.flow_run.next_attempt import after_attempt, blocked, launch
from kapstan.reconcile.kinds.flow_run.plan import RunPlan
from kapstan.reconcile.kinds.flow_run.step import Step
from kapstan.reconcile.plan import Action
from kapstan.reconcile.status import key_of
from kapstan.resources.flowrun import Attempt, Diagnosis, Phase
from kapstan.states import PHASES, AttemptOutcome


def with_open_attempt(step: Step) -> RunPlan:
    attempt = step.status.attempts[-1]
    seen = step.seen(attempt)
    launched = step.observed.run.status.phase not in (None, "Scheduled")
    judgement = judge(attempt, seen, step.observed.record, step.now, launched=launched, pool=step.observed.pool)
    match judgement.verdict:
        case Verdict.ASK_JOURNAL:
            return RunPlan(needs_journal=True)
        case Verdict.UNKNOWN:
            if step.observed.run.spec.cancel and step.observed.record.damaged:
                # No process of it is left, and a person does not wait for a record that may never be read.
                return after_attempt(step, attempt, seen, Judgement(Verdict.ENDED, AttemptOutcome.CANCELLED))
            return step.store_away()
        case Verdict.OPEN:
            return _while_open(step, attempt, seen)
        case Verdict.NOT_LAUNCHED:
            return _launch_again(step, attempt)
        case Verdict.ENDED:
            return after_attempt(step, attempt, seen, judgement)


def _while_open(step: Step, attempt: Attempt, seen: AttemptObservation) -> RunPlan:
    run = step.observed.run
    step.replace_last(seen_on(attempt, seen))
    actions: list[Action] = []
    why = "Cancelled" if run.spec.cancel else "Suspended" if run.spec.suspend else _overdue(step, attempt, seen)
    if why in STOPPED_FOR:
        step.replace_last(step.status.attempts[-1].model_copy(update={"reason": why}))
    if why and not seen.stopping:
        uid, grace = run.metadata.uid or "", grace_of(step.observed.pool)
        actions.append(StopAttempt(step.pool_type, key_of(run), uid, attempt.job, grace))
    phase: Phase = "Cancelling" if run.spec.cancel else "Running" if seen.running else "Pending"
    stuck = _not_heard_of(step, seen) or (None if seen.running else diagnosis.of_start(seen))
    step.status = step.status.model_copy(update={"diagnosis": stuck})
    step.degraded(stuck.category if stuck else None, f"{stuck.message}: {stuck.resolution}" if stuck else "")
    message = f"attempt {attempt.number}: " + (stuck.message if stuck else PHASES[phase])
    step.tell(phase, message, progressing=stuck is None)
    # The status first: a deadline that is not written down would be forgotten once the process is gone.
    return step.plan(step.write(), actions, requeue_at=_look_again(step, seen))


def _not_heard_of(step: Step, seen: AttemptObservation) -> Diagnosis | None:
    since, until = overdue_since(seen, step.now), given_up_at(seen, step.observed.pool)
    return None if since is None or until is None else diagnosis.of_silence(seen, since, until)


def _overdue(
    step: Step, attempt: Attempt, seen: AttemptObservation
) -> Literal["DeadlinePending", "DeadlineRunning", ""]:
    if attempt.reason in STOPPED_FOR:
        return "DeadlinePending" if attempt.reason == "DeadlinePending" else "DeadlineRunning"
    limit = _deadline(step, seen)
    if limit is None or step.now < limit:
        return ""
    return "DeadlineRunning" if seen.running else "DeadlinePending"


def _deadline(step: Step, seen: AttemptObservation) -> datetime | None:
    if step.observed.pool is None:
        return None
    deadlines = step.observed.pool.spec.deadlines
    if seen.running:
        since, seconds = seen.started_at, deadlines.running_seconds
    else:
        since, seconds = seen.created_at, deadlines.pending_seconds
        if seconds is None:
            stuck = diagnosis.of_start(seen)
            if stuck is not None and stuck.category in diagnosis.NEEDS_ROOM:
                return None  # the cluster has no room yet; nothing is wrong with the run
            since, seconds = seen.placed_at or since, PENDING.total_seconds()
    if seconds is None or since is None:
        return None
    return datetime.fromisoformat(since) + timedelta(seconds=seconds)


def _look_again(step: Step, seen: AttemptObservation) -> datetime:
    moments = (
        _deadline(step, seen),
        late_at(seen),
        given_up_at(seen, step.observed.pool),
        step.now + RESYNC,
    )
    return min(moment for moment in moments if moment is not None and moment > step.now)


def _launch_again(step: Step, attempt: Attempt) -> RunPlan:
    """The attempt was recorded, and the operator ended before the launch: make it now, under the same name."""
    if step.observed.run.spec.cancel or step.observed.run.spec.suspend:
        cancelled = step.observed.run.spec.cancel
        outcome = AttemptOutcome.CANCELLED if cancelled else AttemptOutcome.HANDED_BACK
        return after_attempt(step, attempt, step.seen(attempt), Judgement(Verdict.ENDED, outcome))
    held = blocked(step)
    return held or launch(step, attempt, ())
