"""One reconciliation of a FlowRun under construction: what is known, and the words of its status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from kapstan import ids
from kapstan.ports import AttemptObservation
from kapstan.reconcile.kinds.flow_run import diagnosis
from kapstan.reconcile.kinds.flow_run.actions import DeclareEnd
from kapstan.reconcile.kinds.flow_run.attempts import KEPT, LINGER
from kapstan.reconcile.kinds.flow_run.observed import RunObserved
from kapstan.reconcile.kinds.flow_run.plan import RunPlan
from kapstan.reconcile.plan import Action, EmitEvent
from kapstan.reconcile.status import Conditions, changed_status, key_of, shortened
from kapstan.resources.flowrun import Attempt, Diagnosis, DiagnosisCategory, FlowRunStatus, Phase
from kapstan.states import PHASES

OUTAGE = timedelta(seconds=5)
IN_DOUBT = "EffectsInDoubt"
"""Type of the condition of a run that is parked for an effect in doubt; there only while it is."""


@dataclass(slots=True)
class Step:
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

    # ------------------------------------------------------------------ ends

    def end(self, phase: Phase, found: Diagnosis | None, *, declare: bool | None = None) -> RunPlan:
        """The run is over; ``declare``: its record does not know yet, as that of a crashed one never does."""
        last = self.last
        if last is not None and last.finished_at is None:
            self.replace_last(last.model_copy(update={"finished_at": self.now, "reason": found and found.category}))
        self.status = self.status.model_copy(update={"diagnosis": found})
        message = found.message if found else PHASES[phase]
        bad = phase in ("Failed", "Crashed")
        self.degraded(phase if bad else None, message if bad else "")
        self.tell(phase, message, progressing=False, reason=phase)
        actions: list[Action] = [*self.write(), self.event("Warning" if bad else "Normal", phase, message)]
        if phase in ("Crashed", "Cancelled") and (phase == "Crashed" if declare is None else declare):
            state: Literal["Crashed", "Cancelled"] = "Crashed" if phase == "Crashed" else "Cancelled"
            # Before the status: a terminal run may leave the watch and is not looked at again.
            actions.insert(0, DeclareEnd(self.observed.run.metadata.namespace, self.observed.run_id, state, message))
        return self.plan(actions, (), requeue_at=self.now + LINGER if last is not None else None)

    def tell(self, phase: Phase, message: str, *, progressing: bool = True, reason: str = "") -> None:
        self.status = self.status.model_copy(update={"phase": phase, "message": shortened(message)})
        if phase != "Suspended":
            self.conditions.drop(IN_DOUBT)
        self.conditions.set("Ready", phase == "Completed", phase, message if phase == "Completed" else "")
        self.conditions.set("Progressing", progressing, reason or phase, message)
        if not any(condition.type == "Degraded" for condition in self.conditions.items):
            self.degraded(None)

    def degraded(self, reason: str | None, message: str = "") -> None:
        self.conditions.set("Degraded", reason is not None, reason or "AsExpected", message)

    def event(self, severity: Literal["Normal", "Warning"], reason: str, message: str) -> EmitEvent:
        run = self.observed.run
        return EmitEvent(key_of(run), run.metadata.uid or "", severity, reason, shortened(message))

    def replace_last(self, attempt: Attempt) -> None:
        self.status = self.status.model_copy(update={"attempts": [*self.status.attempts[:-1], attempt]})

    def append(self, attempt: Attempt) -> None:
        self.status = self.status.model_copy(update={"attempts": [*self.status.attempts, attempt][-KEPT:]})

    def write(self) -> tuple[Action, ...]:
        status = self.status.model_copy(update={"conditions": self.conditions.items})
        return changed_status(self.observed.run, status)

    def plan(self, first: Sequence[Action], then: Sequence[Action], *, requeue_at: datetime | None = None) -> RunPlan:
        return RunPlan((*first, *then), requeue_at)

    def delayed(self, message: str, category: DiagnosisCategory) -> RunPlan:
        found = diagnosis.diagnosis(category, message)
        self.status = self.status.model_copy(update={"diagnosis": found})
        self.degraded(found.category, f"{message}: {found.resolution}")
        self.tell("Scheduled", message, reason="LaunchDelayed")
        return self.plan(self.write(), ())

    def store_away(self) -> RunPlan:
        record = self.observed.record
        message = f"the run's record cannot be read, so nothing is decided until it can: {record.unreachable}"
        if record.damaged:
            message += "; to give the run up, cancel it (spec.cancel)"
        self.degraded("StoreUnavailable", message)
        phase: Phase = self.status.phase or "Scheduled"
        self.tell(phase, "waits for the store of the run's record", progressing=False, reason="StoreUnavailable")
        return self.plan(self.write(), (), requeue_at=self.now + OUTAGE)
