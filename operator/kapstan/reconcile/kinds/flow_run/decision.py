"""FlowRun: one run, attempt after attempt, until it ends.

An attempt stands in the status before it is launched; it is over when the run's own record says so, or when the process
is gone and the journal holds no word of it. What infrastructure tells fills the diagnosis.
"""

from __future__ import annotations

from datetime import datetime

from kapstan.reconcile.kinds.flow_run import diagnosis, ended
from kapstan.reconcile.kinds.flow_run.next_attempt import without_attempt
from kapstan.reconcile.kinds.flow_run.observed import RunObserved
from kapstan.reconcile.kinds.flow_run.open_attempt import with_open_attempt
from kapstan.reconcile.kinds.flow_run.plan import RunPlan
from kapstan.reconcile.kinds.flow_run.step import Step
from kapstan.resources import FlowRun
from kapstan.resources.flowrun import DiagnosisCategory
from kapstan.states import TERMINAL_PHASES, AttemptOutcome


def reconcile(observed: RunObserved, now: datetime) -> RunPlan:
    """The next step of a run."""
    run = observed.run
    step = Step(observed, now)
    asked = run.spec.resume > run.status.resumed and not run.spec.cancel
    if asked and (run.status.phase in ("Failed", "Crashed") or _is_parked(run)):
        return resumed(step)
    if run.status.phase in TERMINAL_PHASES:
        return ended.reconcile(observed, now)
    if step.last is not None and step.last.finished_at is None:
        return with_open_attempt(step)
    return without_attempt(step)


def _is_parked(run: FlowRun) -> bool:
    """Whether its last attempt ended as Suspended. Of one that a person suspended only that is taken back."""
    last = run.status.attempts[-1] if run.status.attempts else None
    return run.status.phase == "Suspended" and not run.spec.suspend and last is not None and last.outcome == "Suspended"


def resumed(step: Step) -> RunPlan:
    """A person asked to go on: the budget is new, and the next attempt executes again what failed."""
    last = step.last
    step.status = step.status.model_copy(
        update={
            "resumed": step.observed.run.spec.resume,
            "resumed_after": last.number if last is not None else 0,
            "infrastructure_losses": 0,
            "diagnosis": None,
        }
    )
    step.degraded(None)
    return without_attempt(step, events=(step.event("Normal", "Resumed", "a person asked to go on with the run"),))


def launch_refused(observed: RunObserved, message: str, now: datetime) -> RunPlan:
    """The launcher said that this attempt can never be started so: the run ends."""
    return Step(observed, now).end("Crashed", diagnosis.diagnosis("ConfigError", message))


def name_taken(observed: RunObserved, message: str, now: datetime) -> RunPlan:
    """Somebody else's object has the name of this attempt: it is over before it began, gives its place back, and the
    next one has another name."""
    step = Step(observed, now)
    last = step.status.attempts[-1]
    over = {"outcome": AttemptOutcome.HANDED_BACK, "finished_at": now, "reason": "NameTaken"}
    step.replace_last(last.model_copy(update=over))
    found = diagnosis.diagnosis("NameTaken", message)
    step.status = step.status.model_copy(update={"diagnosis": found})
    step.degraded("NameTaken", f"{message}: {found.resolution}")
    return without_attempt(step, events=(step.event("Warning", "NameTaken", message),))


def launch_delayed(observed: RunObserved, message: str, now: datetime, *, category: DiagnosisCategory) -> RunPlan:
    """The launcher may not start this attempt yet: say so; the loop tries again."""
    return Step(observed, now).delayed(message, category)
