"""No attempt is open: how the last one ended, whether there is another one, and when."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from kapstan.ports import AttemptObservation
from kapstan.reconcile.kinds.flow_run import diagnosis, parked
from kapstan.reconcile.kinds.flow_run.actions import NoteEnd, StartAttempt
from kapstan.reconcile.kinds.flow_run.attempts import RESYNC, STOPPED_FOR, Judgement, Verdict, closed, next_start
from kapstan.reconcile.kinds.flow_run.launching import BLOCKERS, missing, request_of
from kapstan.reconcile.kinds.flow_run.plan import RunPlan
from kapstan.reconcile.kinds.flow_run.step import Step
from kapstan.reconcile.kinds.work_pool.actions import AskPlace
from kapstan.reconcile.naming import job_name
from kapstan.reconcile.plan import Action, EmitEvent
from kapstan.reconcile.status import key_of
from kapstan.resources.flowrun import Attempt, Diagnosis
from kapstan.states import PHASES

ASKED = timedelta(milliseconds=250)
"""How long a run waits for a place before its status says so."""
LOG_LINES, LOG_CHARACTERS = 10, 300
"""Of what a container has logged last: how much of it is evidence."""


# ---------------------------------------------------------------------- an attempt has ended


def after_attempt(step: Step, attempt: Attempt, seen: AttemptObservation, judgement: Judgement) -> RunPlan:
    plan = _after_attempt(step, attempt, seen, judgement)
    if judgement.end is not None or seen.exit_code is None or step.pool_type == "process":
        return plan
    evidence: tuple[tuple[str, Any], ...] = (
        ("seen", f"its container has terminated with exit code {seen.exit_code}"),
        ("cause", seen.reason),
        ("exit_code", seen.exit_code),
        ("pod", seen.pod),
        ("node", seen.node),
        *((("log", tuple(line[:LOG_CHARACTERS] for line in seen.log[-LOG_LINES:])),) if seen.log else ()),
    )
    run = step.observed.run
    # Before the status: once that says Lost, nobody looks at the attempt again.
    note = NoteEnd(run.metadata.namespace, step.observed.run_id, attempt.number, evidence)
    return replace(plan, actions=(note, *plan.actions))


def _after_attempt(step: Step, attempt: Attempt, seen: AttemptObservation, judgement: Judgement) -> RunPlan:
    spec = step.observed.run.spec
    done = closed(attempt, seen, judgement, step.now)
    step.replace_last(done)
    end = judgement.end
    if judgement.outcome == "Completed":
        step.status = step.status.model_copy(update={"result_ref": end.result_ref if end else None})
        return step.end("Completed", None)
    if judgement.outcome == "Failed":
        return step.end("Failed", diagnosis.diagnosis("UserCode", end.message if end else ""))
    if spec.cancel or judgement.outcome == "Cancelled":
        knows = end is not None and end.outcome == "Cancelled"
        return step.end("Cancelled", diagnosis.diagnosis("Cancelled", ""), declare=not knows)
    if judgement.outcome == "Crashed":  # declared already, but the status that should say so was not written
        found = diagnosis.of_end(seen, reason=done.reason or "")
        message = end.message if end and end.message else found.message
        return step.end("Crashed", found.model_copy(update={"message": message}))
    if done.reason in STOPPED_FOR:
        return step.end("Crashed", diagnosis.of_end(seen, reason=done.reason or ""))
    if judgement.outcome != "Lost" or spec.suspend:
        step.status = step.status.model_copy(update={"diagnosis": None})
        return without_attempt(step, events=())
    return _after_loss(step, seen)


def _after_loss(step: Step, seen: AttemptObservation) -> RunPlan:
    found = diagnosis.of_end(seen)
    recorded = step.observed.record.of(step.status.attempts[-1].number)
    if found.category == "OOMKilled" and recorded is not None:
        return _after_outgrown(step, found, recorded.retries_left)
    losses = step.status.infrastructure_losses + 1
    step.status = step.status.model_copy(update={"infrastructure_losses": losses, "diagnosis": found})
    budget = step.observed.deployment.spec.infrastructure_retries if step.observed.deployment else 5
    if losses > budget or found.category == "ConfigError":
        return step.end("Crashed", found)
    note = f"{found.message}; {found.category}, loss {losses} of {budget} that are allowed"
    step.degraded("AttemptLost", note)
    return without_attempt(step, events=(step.event("Warning", "AttemptLost", note),))


def _after_outgrown(step: Step, found: Diagnosis, retries_left: int) -> RunPlan:
    """The flow used more memory than it may: its own doing, so that its own retries are spent."""
    step.status = step.status.model_copy(update={"diagnosis": found})
    since = step.status.resumed_after
    spent = sum(attempt.reason == "OOMKilled" for attempt in step.status.attempts if attempt.number > since)
    if spent > retries_left:
        return step.end("Crashed", found)
    note = f"{found.message}; {found.category}, retry {spent} of {retries_left} that the flow has left"
    step.degraded("AttemptLost", note)
    return without_attempt(step, events=(step.event("Warning", "AttemptLost", note),))


# ---------------------------------------------------------------------- no attempt is open


def without_attempt(step: Step, events: tuple[EmitEvent, ...] = ()) -> RunPlan:
    spec, last = step.observed.run.spec, step.last
    if spec.cancel:
        # Of several objects that ask for one run only the one that has it may end it.
        return step.end("Cancelled", diagnosis.diagnosis("Cancelled", ""), declare=step.observed.twin is None)
    if last is not None and last.outcome == "Suspended" and not spec.suspend and not _read_ended(step, last):
        return step.store_away() if step.observed.record.unreachable else RunPlan(needs_journal=True)
    until = _suspended_until(step)
    if until is not None:
        return _rest(step, until, events)
    after = max(filter(None, (spec.scheduled_time, next_start(step.status.attempts))), default=None)
    if after is not None and after > step.now:
        reason = "Backoff" if last is not None else "Scheduled"
        step.tell("Scheduled", f"starts at {after.isoformat(timespec='seconds')}", reason=reason)
        return step.plan(step.write(), events, requeue_at=after)
    other = _with_other_objects(step, events)
    if other is not None:
        return other
    held = blocked(step, events)
    if held is not None:
        return held
    if step.observed.place != "granted":
        return _wait_for_place(step, events)
    if step.observed.record.unreachable:
        return step.store_away()
    if not step.observed.record.journal:
        return RunPlan(needs_journal=True)
    return _begin(step, events)


def _rest(step: Step, until: datetime, events: tuple[EmitEvent, ...]) -> RunPlan:
    """No process, until that moment, or (``datetime.max``) until somebody says so or decides."""
    sentence, told = parked.tell(step)
    if until != datetime.max:
        step.tell("Suspended", f"suspended until {until.isoformat()}", progressing=False, reason="Suspended")
        return step.plan(step.write(), events, requeue_at=until)
    step.tell("Suspended", sentence or PHASES["Suspended"], progressing=False, reason="Suspended")
    return step.plan(step.write(), (*events, *told), requeue_at=parked.look_again(step))


def _with_other_objects(step: Step, events: tuple[EmitEvent, ...]) -> RunPlan | None:
    """One idempotency key is one run: what to do where another object has it, or had it and it is over."""
    observed = step.observed
    if observed.run.spec.idempotency_key is None or step.status.attempts:
        return None
    if observed.twin is not None:
        message = f"FlowRun {observed.twin.name!r} has the same idempotencyKey and executes the run"
        step.tell("Scheduled", message, progressing=False, reason="SameRun")
        return step.plan(step.write(), events, requeue_at=step.now + RESYNC)
    if observed.record.unreachable:
        return step.store_away()
    if not observed.record.journal:
        # Before a place is asked for: a run that is over needs none. Once it was read, a place is waited for.
        return RunPlan(needs_journal=True) if observed.place == "none" else None
    return _ended_by_another(step)


def _ended_by_another(step: Step) -> RunPlan | None:
    """The end that the record tells of an attempt which this object does not know; None: there is none."""
    latest = max(step.observed.record.attempts, key=lambda attempt: attempt.number, default=None)
    if latest is None or latest.end is None or latest.number <= (step.last.number if step.last else 0):
        return None
    if not latest.end.outcome.ends_run or (latest.end.outcome == "Crashed" and _just_resumed(step)):
        return None
    other = Attempt(number=latest.number, job=job_name(step.observed.run.metadata.name, latest.number))
    step.append(other)
    return after_attempt(step, other, step.seen(other), Judgement(Verdict.ENDED, latest.end.outcome, latest.end))


def _just_resumed(step: Step) -> bool:
    """A person asked to go on, and nothing was started since: the record still says that it was given up."""
    status = step.status
    return status.resumed > 0 and all(attempt.number <= status.resumed_after for attempt in status.attempts)


def _read_ended(step: Step, attempt: Attempt) -> bool:
    """Whether the record that was read says how this attempt ended; the journal says all there is to say."""
    return step.observed.record.journal or step.observed.record.of(attempt.number) is not None


def _suspended_until(step: Step) -> datetime | None:
    """None: not suspended; datetime.max: until somebody says so."""
    if step.observed.run.spec.suspend:
        return datetime.max
    if step.last is None or step.last.outcome != "Suspended" or parked.is_decided(step):
        return None
    end = parked.end_of(step)
    if end is None or end.until is None:
        return datetime.max
    until = datetime.fromtimestamp(end.until, step.now.tzinfo)
    return until if until > step.now else None


def blocked(step: Step, events: tuple[EmitEvent, ...] = ()) -> RunPlan | None:
    """The plan that says what is missing, if something is."""
    found = missing(step.observed)
    if found is None:
        degraded = next((c for c in step.conditions.items if c.type == "Degraded"), None)
        if degraded is not None and degraded.reason in BLOCKERS:
            step.degraded(None)
        return None
    reason, message = found
    step.degraded(reason, message)
    step.tell("Scheduled", message, progressing=False, reason=reason)
    write = step.write()
    return step.plan(write, (*events, step.event("Warning", reason, message)) if write else events)


def _wait_for_place(step: Step, events: tuple[EmitEvent, ...]) -> RunPlan:
    run, pool = step.observed.run, step.observed.pool
    assert pool is not None
    ask = AskPlace(key_of(run), key_of(pool))
    if step.observed.place == "none":
        # Mostly the pool answers at once: the status is written only where it does not, or where an attempt ended.
        write: tuple[Action, ...] = ()
        if step.status.attempts != run.status.attempts or step.status.resumed != run.status.resumed:
            step.tell("Scheduled", "the next attempt is about to start", reason="Launching")
            write = step.write()
        return step.plan((*write, ask), events, requeue_at=step.now + ASKED)
    step.tell("Scheduled", f"waits for a place in WorkPool {pool.metadata.name!r}", reason="WaitsForPool")
    return step.plan(step.write(), (*events, ask))


def _begin(step: Step, events: tuple[EmitEvent, ...]) -> RunPlan:
    """Record the next attempt, then launch it."""
    begun = step.observed.record.attempts
    latest = max(begun, key=lambda attempt: attempt.number, default=None)
    last = step.last
    # Somebody else may have executed this run (`kapstan flow-run resume`): what it says of itself counts.
    over = _ended_by_another(step)
    if over is not None:
        return over
    number = max(last.number if last else 0, latest.number if latest else 0) + 1
    attempt = Attempt(number=number, job=job_name(step.observed.run.metadata.name, number))
    step.append(attempt)
    step.tell("Scheduled", f"attempt {number} is about to start", reason="Launching")
    return launch(step, attempt, (*step.write(), *events))


def launch(step: Step, attempt: Attempt, ahead: tuple[Action, ...]) -> RunPlan:
    """``ahead`` (the status that records the attempt), the launch, and the status that says it was answered."""
    request = request_of(step.observed, attempt)
    step.tell("Pending", f"attempt {attempt.number}: {PHASES['Pending']}")
    started = step.event("Normal", "AttemptStarted", f"started attempt {attempt.number} as {attempt.job}")
    return step.plan(ahead, (StartAttempt(step.pool_type, request), *step.write(), started))
