"""FlowRun: one run, attempt after attempt, until it ends.

Called by the loop. An attempt stands in the status before it is launched; it is over when the run's own record says so,
or when the process is gone and the journal holds no word of it. What infrastructure tells fills the diagnosis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from kapstan import ids
from kapstan.ports import AttemptObservation
from kapstan.reconcile import diagnosis, flow_run_ended
from kapstan.reconcile.attempts import (
    GRACE,
    KEPT,
    LINGER,
    RESYNC,
    STOPPED_FOR,
    Judgement,
    Verdict,
    closed,
    judge,
    next_start,
    seen_on,
)
from kapstan.reconcile.launching import BLOCKERS, missing, request_of
from kapstan.reconcile.naming import job_name
from kapstan.reconcile.observed import RunObserved
from kapstan.reconcile.plan import (
    Action,
    AskPlace,
    DeclareEnd,
    EmitEvent,
    Plan,
    StartAttempt,
    StopAttempt,
)
from kapstan.reconcile.status import Conditions, changed_status, key_of
from kapstan.resources.flowrun import Attempt, Diagnosis, DiagnosisCategory, FlowRunStatus, Phase
from kapstan.states import PHASES, TERMINAL_PHASES

ASKED = timedelta(milliseconds=250)
"""How long a run waits for a place before its status says so."""
OUTAGE = timedelta(seconds=5)


def reconcile(observed: RunObserved, now: datetime) -> Plan:
    """The next step of a run."""
    if observed.run.status.phase in TERMINAL_PHASES:
        return flow_run_ended.reconcile(observed, now)
    step = _Step(observed, now)
    if step.last is not None and step.last.finished_at is None:
        return step.with_open_attempt()
    return step.without_attempt()


def launch_refused(observed: RunObserved, message: str, now: datetime) -> Plan:
    """The launcher said that this attempt can never be started so: the run ends."""
    step = _Step(observed, now)
    return step.end("Crashed", diagnosis.diagnosis("ConfigError", message))


def launch_delayed(observed: RunObserved, message: str, now: datetime, *, category: DiagnosisCategory) -> Plan:
    """The launcher may not start this attempt yet: say so; the loop tries again."""
    return _Step(observed, now).delayed(message, category)


@dataclass(slots=True)
class _Step:
    """One reconciliation under construction."""

    observed: RunObserved
    now: datetime
    status: FlowRunStatus = field(init=False)
    conditions: Conditions = field(init=False)

    def __post_init__(self) -> None:
        run = self.observed.run
        run_id = self.observed.run_id
        self.conditions = Conditions.of(run, self.now)
        self.status = run.status.model_copy(
            update={
                "run_id": str(ids.to_uuid(run_id)),
                "name": ids.run_name(run_id),
                "observed_generation": run.metadata.generation,
            }
        )

    # ------------------------------------------------------------------ what is known

    @property
    def last(self) -> Attempt | None:
        return self.status.attempts[-1] if self.status.attempts else None

    @property
    def pool_type(self) -> str:
        return self.observed.pool.spec.type if self.observed.pool else ""

    def seen(self, attempt: Attempt) -> AttemptObservation:
        for seen in self.observed.attempts:
            if seen.number == attempt.number:
                return seen
        return AttemptObservation(attempt.number, attempt.job, exists=False)

    # ------------------------------------------------------------------ an attempt is recorded and has not ended

    def with_open_attempt(self) -> Plan:
        attempt = self.status.attempts[-1]
        seen = self.seen(attempt)
        launched = self.observed.run.status.phase not in (None, "Scheduled")
        judgement = judge(attempt, seen, self.observed.record, launched=launched)
        match judgement.verdict:
            case Verdict.ASK_JOURNAL:
                return Plan(needs_journal=True)
            case Verdict.UNKNOWN:
                return self._store_away()
            case Verdict.OPEN:
                return self._while_open(attempt, seen)
            case Verdict.NOT_LAUNCHED:
                return self._launch_again(attempt)
            case Verdict.ENDED:
                return self._after_attempt(attempt, seen, judgement)

    def _while_open(self, attempt: Attempt, seen: AttemptObservation) -> Plan:
        run = self.observed.run
        self._replace_last(seen_on(attempt, seen))
        actions: list[Action] = []
        why = "Cancelled" if run.spec.cancel else "Suspended" if run.spec.suspend else self._overdue(attempt, seen)
        if why in STOPPED_FOR:
            self._replace_last(self.status.attempts[-1].model_copy(update={"reason": why}))
        if why and not seen.stopping:
            actions.append(StopAttempt(self.pool_type, key_of(run), attempt.job, GRACE))
        phase: Phase = "Cancelling" if run.spec.cancel else "Running" if seen.running else "Pending"
        stuck = None if seen.running else diagnosis.of_start(seen)
        self.status = self.status.model_copy(update={"diagnosis": stuck})
        self._degraded(stuck.category if stuck else None, f"{stuck.message}: {stuck.resolution}" if stuck else "")
        message = f"attempt {attempt.number}: " + (stuck.message if stuck else PHASES[phase])
        self._tell(phase, message, progressing=stuck is None)
        # The status first: a deadline that is not written down would be forgotten once the process is gone.
        return self._plan(self._write(), actions, requeue_at=self._look_again(seen))

    def _overdue(self, attempt: Attempt, seen: AttemptObservation) -> Literal["DeadlinePending", "DeadlineRunning", ""]:
        if attempt.reason in STOPPED_FOR:
            return "DeadlinePending" if attempt.reason == "DeadlinePending" else "DeadlineRunning"
        limit = self._deadline(seen)
        if limit is None or self.now < limit:
            return ""
        return "DeadlineRunning" if seen.running else "DeadlinePending"

    def _deadline(self, seen: AttemptObservation) -> datetime | None:
        if self.observed.pool is None:
            return None
        deadlines = self.observed.pool.spec.deadlines
        seconds = deadlines.running_seconds if seen.running else deadlines.pending_seconds
        since = seen.started_at if seen.running else seen.created_at
        if seconds is None or since is None:
            return None
        return datetime.fromisoformat(since) + timedelta(seconds=seconds)

    def _look_again(self, seen: AttemptObservation) -> datetime:
        limit = self._deadline(seen)
        resync = self.now + RESYNC
        return min(limit, resync) if limit is not None and limit > self.now else resync

    def _launch_again(self, attempt: Attempt) -> Plan:
        """The attempt was recorded, and the operator ended before the launch: make it now, under the same name."""
        if self.observed.run.spec.cancel or self.observed.run.spec.suspend:
            outcome = "Cancelled" if self.observed.run.spec.cancel else "HandedBack"
            return self._after_attempt(attempt, self.seen(attempt), Judgement(Verdict.ENDED, outcome))
        blocked = self._blocked()
        return blocked or self._launch(attempt, ())

    # ------------------------------------------------------------------ an attempt has ended

    def _after_attempt(self, attempt: Attempt, seen: AttemptObservation, judgement: Judgement) -> Plan:
        spec = self.observed.run.spec
        done = closed(attempt, seen, judgement, self.now)
        self._replace_last(done)
        end = judgement.end
        if judgement.outcome == "Completed":
            self.status = self.status.model_copy(update={"result_ref": end.result_ref if end else None})
            return self.end("Completed", None)
        if judgement.outcome == "Failed":
            return self.end("Failed", diagnosis.diagnosis("UserCode", end.message if end else ""))
        if spec.cancel or judgement.outcome == "Cancelled":
            knows = end is not None and end.outcome == "Cancelled"
            return self.end("Cancelled", diagnosis.diagnosis("Cancelled", ""), declare=not knows)
        if done.reason in STOPPED_FOR:
            return self.end("Crashed", diagnosis.of_end(seen, reason=done.reason or ""))
        if judgement.outcome != "Lost" or spec.suspend:
            self.status = self.status.model_copy(update={"diagnosis": None})
            return self.without_attempt(events=())
        return self._after_loss(seen)

    def _after_loss(self, seen: AttemptObservation) -> Plan:
        found = diagnosis.of_end(seen)
        told = self.observed.record.of(self.status.attempts[-1].number)
        if found.category == "OOMKilled" and told is not None:
            return self._after_outgrown(found, told.retries_left)
        losses = self.status.infrastructure_losses + 1
        self.status = self.status.model_copy(update={"infrastructure_losses": losses, "diagnosis": found})
        budget = self.observed.deployment.spec.infrastructure_retries if self.observed.deployment else 5
        if losses > budget or found.category == "ConfigError":
            return self.end("Crashed", found)
        note = f"{found.message}; {found.category}, loss {losses} of {budget} that are allowed"
        self._degraded("AttemptLost", note)
        return self.without_attempt(events=(self._event("Warning", "AttemptLost", note),))

    def _after_outgrown(self, found: Diagnosis, retries_left: int) -> Plan:
        """The flow used more memory than it may: its own doing, so that its own retries are spent."""
        self.status = self.status.model_copy(update={"diagnosis": found})
        spent = sum(attempt.reason == "OOMKilled" for attempt in self.status.attempts)
        if spent > retries_left:
            return self.end("Crashed", found)
        note = f"{found.message}; {found.category}, retry {spent} of {retries_left} that the flow has left"
        self._degraded("AttemptLost", note)
        return self.without_attempt(events=(self._event("Warning", "AttemptLost", note),))

    # ------------------------------------------------------------------ no attempt is open

    def without_attempt(self, events: tuple[EmitEvent, ...] = ()) -> Plan:
        spec, last = self.observed.run.spec, self.last
        if spec.cancel:
            return self.end("Cancelled", diagnosis.diagnosis("Cancelled", ""), declare=True)
        if last is not None and last.outcome == "Suspended" and not spec.suspend and not self._told(last):
            return self._store_away() if self.observed.record.unreachable else Plan(needs_journal=True)
        until = self._suspended_until()
        if until is not None:
            forever = until == datetime.max
            message = PHASES["Suspended"] if forever else f"suspended until {until.isoformat()}"
            self._tell("Suspended", message, progressing=False, reason="Suspended")
            return self._plan(self._write(), events, requeue_at=None if forever else until)
        after = max(filter(None, (spec.scheduled_time, next_start(self.status.attempts))), default=None)
        if after is not None and after > self.now:
            reason = "Backoff" if last is not None else "Scheduled"
            self._tell("Scheduled", f"starts at {after.isoformat(timespec='seconds')}", reason=reason)
            return self._plan(self._write(), events, requeue_at=after)
        blocked = self._blocked(events)
        if blocked is not None:
            return blocked
        if self.observed.place != "granted":
            return self._wait_for_place(events)
        if self.observed.record.unreachable:
            return self._store_away()
        if not self.observed.record.journal:
            return Plan(needs_journal=True)
        return self._begin(events)

    def _told(self, attempt: Attempt) -> bool:
        """Whether the record that was read says how this attempt ended; the journal says all there is to say."""
        return self.observed.record.journal or self.observed.record.of(attempt.number) is not None

    def _suspended_until(self) -> datetime | None:
        """None: not suspended; datetime.max: until somebody says so."""
        if self.observed.run.spec.suspend:
            return datetime.max
        last = self.last
        if last is None or last.outcome != "Suspended":
            return None
        told = self.observed.record.of(last.number)
        if told is None or told.end is None or told.end.until is None:
            return datetime.max
        until = datetime.fromtimestamp(told.end.until, self.now.tzinfo)
        return until if until > self.now else None

    def _blocked(self, events: tuple[EmitEvent, ...] = ()) -> Plan | None:
        """The plan that says what is missing, if something is."""
        found = missing(self.observed)
        if found is None:
            degraded = next((c for c in self.conditions.items if c.type == "Degraded"), None)
            if degraded is not None and degraded.reason in BLOCKERS:
                self._degraded(None)
            return None
        reason, message = found
        self._degraded(reason, message)
        self._tell("Scheduled", message, progressing=False, reason=reason)
        write = self._write()
        return self._plan(write, (*events, self._event("Warning", reason, message)) if write else events)

    def _wait_for_place(self, events: tuple[EmitEvent, ...]) -> Plan:
        run, pool = self.observed.run, self.observed.pool
        assert pool is not None
        ask = AskPlace(key_of(run), key_of(pool))
        if self.observed.place == "none":
            # Mostly the pool answers at once: the status is written only where it does not, or where an attempt ended.
            write: tuple[Action, ...] = ()
            if self.status.attempts != run.status.attempts:
                self._tell("Scheduled", "the next attempt is about to start", reason="Launching")
                write = self._write()
            return self._plan((*write, ask), events, requeue_at=self.now + ASKED)
        self._tell("Scheduled", f"waits for a place in WorkPool {pool.metadata.name!r}", reason="WaitsForPool")
        return self._plan(self._write(), (*events, ask))

    def _begin(self, events: tuple[EmitEvent, ...]) -> Plan:
        """Record the next attempt, then launch it."""
        begun = self.observed.record.attempts
        latest = max(begun, key=lambda attempt: attempt.number, default=None)
        last = self.last
        if latest is not None and latest.end is not None and latest.number > (last.number if last else 0):
            # Somebody else executed this run (`kapstan flow-run resume`): what it says of itself counts.
            other = Attempt(number=latest.number, job=job_name(self.observed.run.metadata.name, latest.number))
            if latest.end.outcome in ("Completed", "Failed", "Cancelled"):
                self._append(other)
                return self._after_attempt(
                    other, self.seen(other), Judgement(Verdict.ENDED, latest.end.outcome, latest.end)
                )
        number = max(last.number if last else 0, latest.number if latest else 0) + 1
        attempt = Attempt(number=number, job=job_name(self.observed.run.metadata.name, number))
        self._append(attempt)
        self._tell("Scheduled", f"attempt {number} is about to start", reason="Launching")
        return self._launch(attempt, (*self._write(), *events))

    def _launch(self, attempt: Attempt, ahead: tuple[Action, ...]) -> Plan:
        """``ahead`` (the status that records the attempt), the launch, and the status that says it was answered."""
        request = request_of(self.observed, attempt)
        self._tell("Pending", f"attempt {attempt.number}: {PHASES['Pending']}")
        started = self._event("Normal", "AttemptStarted", f"started attempt {attempt.number} as {attempt.job}")
        return self._plan(ahead, (StartAttempt(self.pool_type, request), *self._write(), started))

    def delayed(self, message: str, category: DiagnosisCategory) -> Plan:
        found = diagnosis.diagnosis(category, message)
        self.status = self.status.model_copy(update={"diagnosis": found})
        self._degraded(found.category, f"{message}: {found.resolution}")
        self._tell("Scheduled", message, reason="LaunchDelayed")
        return self._plan(self._write(), ())

    def _store_away(self) -> Plan:
        why = self.observed.record.unreachable
        self._degraded(
            "StoreUnavailable", f"the run's record cannot be read, so nothing is decided until it can: {why}"
        )
        phase: Phase = self.status.phase or "Scheduled"
        self._tell(phase, "waits for the store of the run's record", progressing=False, reason="StoreUnavailable")
        return self._plan(self._write(), (), requeue_at=self.now + OUTAGE)

    # ------------------------------------------------------------------ ends and words

    def end(self, phase: Phase, found: Diagnosis | None, *, declare: bool = False) -> Plan:
        """The run is over; ``declare``: its record does not know yet."""
        last = self.last
        if last is not None and last.finished_at is None:
            self._replace_last(last.model_copy(update={"finished_at": self.now, "reason": found and found.category}))
        self.status = self.status.model_copy(update={"diagnosis": found})
        message = found.message if found else PHASES[phase]
        bad = phase in ("Failed", "Crashed")
        self._degraded(phase if bad else None, message if bad else "")
        self._tell(phase, message, progressing=False, reason=phase)
        actions: list[Action] = [*self._write(), self._event("Warning" if bad else "Normal", phase, message)]
        if phase in ("Crashed", "Cancelled") and (declare or phase == "Crashed"):
            told: Literal["Crashed", "Cancelled"] = "Crashed" if phase == "Crashed" else "Cancelled"
            # Before the status: a terminal run may leave the watch and is not looked at again.
            actions.insert(0, DeclareEnd(self.observed.run.metadata.namespace, self.observed.run_id, told, message))
        return self._plan(actions, (), requeue_at=self.now + LINGER if last is not None else None)

    def _tell(self, phase: Phase, message: str, *, progressing: bool = True, reason: str = "") -> None:
        self.status = self.status.model_copy(update={"phase": phase, "message": message})
        self.conditions.set("Ready", phase == "Completed", phase, message if phase == "Completed" else "")
        self.conditions.set("Progressing", progressing, reason or phase, message)
        if not any(condition.type == "Degraded" for condition in self.conditions.items):
            self._degraded(None)

    def _degraded(self, reason: str | None, message: str = "") -> None:
        self.conditions.set("Degraded", reason is not None, reason or "AsExpected", message)

    def _event(self, severity: Literal["Normal", "Warning"], reason: str, message: str) -> EmitEvent:
        run = self.observed.run
        return EmitEvent(key_of(run), run.metadata.uid or "", severity, reason, message)

    def _replace_last(self, attempt: Attempt) -> None:
        self.status = self.status.model_copy(update={"attempts": [*self.status.attempts[:-1], attempt]})

    def _append(self, attempt: Attempt) -> None:
        self.status = self.status.model_copy(update={"attempts": [*self.status.attempts, attempt][-KEPT:]})

    def _write(self) -> tuple[Action, ...]:
        status = self.status.model_copy(update={"conditions": self.conditions.items})
        return changed_status(self.observed.run, status)

    def _plan(self, first: Sequence[Action], then: Sequence[Action], *, requeue_at: datetime | None = None) -> Plan:
        return Plan((*first, *then), requeue_at)
