"""Deployment: makes FlowRuns at the moments of its schedules, keeps their number in bounds, forgets old ones.

Called by the loop. A run's name follows from Deployment, schedule and moment: made twice, it is made once. Moments are
let go or made up for by `missedRuns`; a schedule that is suspended lets its moments go one by one, so that resuming it
starts nothing from the past.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from kapstan.errors import ConfigurationError
from kapstan.ports import Key
from kapstan.reconcile.brief import RunBrief
from kapstan.reconcile.kinds.deployment.actions import CancelRun, CreateRun, DeleteRun
from kapstan.reconcile.kinds.deployment.observed import DeploymentObserved
from kapstan.reconcile.naming import child_name, scheduled_run_name
from kapstan.reconcile.plan import Action, EmitEvent, Plan
from kapstan.reconcile.status import Conditions, changed_status, key_of
from kapstan.resources import API_VERSION, Condition, violations
from kapstan.resources.deployment import (
    NEXT_RUNS,
    DeploymentStatus,
    LastRun,
    RunCounts,
    Schedule,
    ScheduleStatus,
)
from kapstan.resources.labels import DEPLOYMENT_LABEL, SCHEDULE_LABEL
from kapstan.schedules import Cron, Interval
from kapstan.schedules import Schedule as Moments

ON_TIME = timedelta(seconds=10)
"""A moment that passed less than this ago was not missed."""
MOST_ON_TIME = 100
"""Runs that one look makes of the moments that were not missed, per schedule."""


def reconcile(observed: DeploymentObserved, now: datetime) -> Plan:
    """The next step of a Deployment."""
    return _Step(observed, now).plan()


def moments_of(schedule: Schedule, created: datetime) -> Moments:
    """The moments of a schedule as it stands in a Deployment that was created then.

    Raises:
        ConfigurationError: no such expression or time zone; rrule is not read by this release.
    """
    if schedule.cron is not None:
        return Cron(schedule.cron, schedule.timezone)
    if schedule.interval is not None:
        return Interval(schedule.interval, schedule.anchor or created, schedule.timezone)
    raise ConfigurationError(f"rrule={schedule.rrule!r}: this release reads cron and interval; write one of them")


def definition(schedule: Schedule) -> str:
    """A digest of when a schedule is due; changes with nothing else."""
    parts = (schedule.cron, schedule.interval, schedule.rrule, schedule.timezone, schedule.anchor)
    return hashlib.sha256(repr(tuple(map(str, parts))).encode()).hexdigest()[:10]


def refused(observed: DeploymentObserved, message: str, now: datetime) -> Plan:
    """A run could not be created: say so; the loop tries again."""
    deployment = observed.deployment
    conditions = Conditions.of(deployment, now)
    conditions.set("Degraded", True, "RunRefused", message)
    write = changed_status(deployment, deployment.status.model_copy(update={"conditions": conditions.items}))
    event = EmitEvent(key_of(deployment), deployment.metadata.uid or "", "Warning", "RunRefused", message)
    return Plan((*write, event) if write else ())


@dataclass(slots=True)
class _Step:
    observed: DeploymentObserved
    now: datetime
    actions: list[Action] = field(default_factory=list[Action])
    upcoming: list[datetime] = field(default_factory=list[datetime])
    wake: list[datetime] = field(default_factory=list[datetime])
    problems: list[str] = field(default_factory=list[str])
    """What is wrong with schedules."""
    broken: list[str] = field(default_factory=list[str])
    """Rules that the API server cannot check; no run is made while one is broken."""
    made: list[tuple[str, datetime]] = field(default_factory=list[tuple[str, datetime]])

    def plan(self) -> Plan:
        deployment = self.observed.deployment
        self.broken = [f"{path}: {problem}" for path, problem in violations(deployment, beyond_cel=True)]
        before = {status.name: status for status in deployment.status.schedules}
        # First what goes: where the namespace's quota is used up, that makes the room for what is created.
        self._forget_old_runs()
        schedules = [self._schedule(schedule, before.get(schedule.name)) for schedule in deployment.spec.schedules]
        self.actions.extend(changed_status(deployment, self._status(schedules)))
        return Plan(tuple(self.actions), min(self.wake, default=None))

    @property
    def active(self) -> int:
        return len(self.observed.unfinished) + len(self.made)

    # ------------------------------------------------------------------ schedules

    def _schedule(self, schedule: Schedule, before: ScheduleStatus | None) -> ScheduleStatus:
        deployment = self.observed.deployment
        created = deployment.metadata.creation_timestamp or self.now
        last, digest = before.last_schedule_time if before else None, definition(schedule)
        try:
            moments = moments_of(schedule, created)
            after = last or (created if deployment.status.observed_generation is None else self.now)
            if before is not None and before.definition not in (None, digest):
                after = self.now  # it says something else now: nothing was missed by it
            suspended = deployment.spec.suspend or schedule.suspend or bool(self.broken)
            due = moments.between(after, self.now, at_most=max(MOST_ON_TIME, deployment.spec.missed_runs.max))
            if not suspended:
                for moment in self._not_missed(due):
                    self._make_run(schedule, moment)
            upcoming = moments.next(NEXT_RUNS, self.now)
        except ConfigurationError as error:
            self.problems.append(f"spec.schedules[{schedule.name}]: {error}")
            return ScheduleStatus(name=schedule.name, last_schedule_time=last, definition=digest)
        self.wake.extend(upcoming[:1])
        if not suspended:
            self.upcoming.extend(upcoming)
        return ScheduleStatus(name=schedule.name, last_schedule_time=due[-1] if due else after, definition=digest)

    def _not_missed(self, due: list[datetime]) -> list[datetime]:
        """Of the moments that passed since the last look, those that a run is made for."""
        spec = self.observed.deployment.spec
        deadline = spec.starting_deadline_seconds
        if deadline is not None:
            due = [moment for moment in due if self.now - moment <= timedelta(seconds=deadline)]
        on_time = [moment for moment in due if self.now - moment <= ON_TIME]
        late = [moment for moment in due if self.now - moment > ON_TIME]
        match spec.missed_runs.policy:
            case "Skip":
                made_up = []
            case "RunLatest":
                made_up = [] if on_time else late[-1:]
            case "RunAll":
                made_up = late[-spec.missed_runs.max :]
        return [*made_up, *on_time[-MOST_ON_TIME:]]

    def _make_run(self, schedule: Schedule, moment: datetime) -> None:
        deployment = self.observed.deployment
        name = scheduled_run_name(deployment.metadata.name, schedule.name, moment)
        limit, policy = deployment.spec.concurrency.limit, deployment.spec.concurrency.policy
        if self._is_made(name):
            return
        looks = policy in ("Forbid", "Replace")
        running = [run for run in self.observed.unfinished if not run.cancelled] if looks else []
        if policy == "Forbid" and len(running) + len(self.made) >= limit:
            self._event("Warning", "RunSkipped", f"no run for {moment.isoformat()}: {limit} active, policy is Forbid")
            return
        if policy == "Replace":
            surplus = len(running) + len(self.made) + 1 - limit
            cancelled = {action.run for action in self.actions if isinstance(action, CancelRun)}
            oldest = [run for run in running if run.key not in cancelled]
            for run in oldest[: max(0, surplus - len(cancelled))]:
                self.actions.append(CancelRun(run.key))
        self.made.append((name, moment))
        self.actions.append(CreateRun(self._manifest(name, schedule, moment)))

    def _is_made(self, name: str) -> bool:
        deployment = self.observed.deployment
        key = Key("FlowRun", deployment.metadata.namespace, name)
        return key in self.observed.ended.by_key or any(run.key == key for run in self.observed.unfinished)

    def _manifest(self, name: str, schedule: Schedule, moment: datetime) -> dict[str, object]:
        deployment = self.observed.deployment
        spec: dict[str, object] = {
            "deploymentRef": {"name": deployment.metadata.name},
            "scheduledTime": moment.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        }
        if schedule.parameters:
            spec["parameters"] = schedule.parameters
        owner = {
            "apiVersion": API_VERSION,
            "kind": "Deployment",
            "name": deployment.metadata.name,
            "uid": deployment.metadata.uid or "",
            "controller": True,
        }
        return {
            "apiVersion": API_VERSION,
            "kind": "FlowRun",
            "metadata": {
                "name": name,
                "namespace": deployment.metadata.namespace,
                "labels": {
                    DEPLOYMENT_LABEL: deployment.metadata.name,
                    SCHEDULE_LABEL: child_name(schedule.name),
                },
                "ownerReferences": [owner],
            },
            "spec": spec,
        }

    # ------------------------------------------------------------------ history and status

    def _forget_old_runs(self) -> None:
        limits = self.observed.deployment.spec.history_limits
        ended = self.observed.ended
        for runs, limit in ((ended.made_good, limits.successful), (ended.made_bad, limits.failed)):
            self.actions.extend(DeleteRun(run.key, run.uid, run.attempts) for run in runs[: max(0, len(runs) - limit)])
        # What was asked for is not history: it stays until its time is over, or a person takes it away.
        ttl = timedelta(seconds=self.observed.deployment.spec.ttl_seconds_after_finished)
        for run in ended.asked_for:
            over = (run.ended_at or self.now) + ttl
            if over > self.now:
                self.wake.append(over)
                return
            self.actions.append(DeleteRun(run.key, run.uid, run.attempts))

    def _status(self, schedules: list[ScheduleStatus]) -> DeploymentStatus:
        deployment = self.observed.deployment
        phases = Counter(self.observed.ended.phases)
        for action in self.actions:
            if isinstance(action, DeleteRun):
                phases[self.observed.ended.by_key[action.run].phase] -= 1
        return deployment.status.model_copy(
            update={
                "observed_generation": deployment.metadata.generation,
                "conditions": self._conditions(),
                "next_runs": sorted(self.upcoming)[:NEXT_RUNS],
                "last_run": self._last_run(),
                "active": self.active,
                "counts": RunCounts(
                    completed=phases["Completed"],
                    failed=phases["Failed"],
                    crashed=phases["Crashed"],
                    cancelled=phases["Cancelled"],
                ),
                "schedules": schedules,
            }
        )

    def _last_run(self) -> LastRun | None:
        if self.made:
            name, moment = max(self.made, key=lambda made: made[1])
            return LastRun(name=name, phase="Scheduled", scheduled_time=moment)
        last = (*self.observed.unfinished[-1:], *self.observed.ended.in_order[-1:])
        newest = max(last, key=RunBrief.order, default=None)
        if newest is None:
            return self.observed.deployment.status.last_run
        return LastRun.model_validate(
            {"name": newest.key.name, "phase": newest.phase or None, "scheduled_time": newest.scheduled}
        )

    def _conditions(self) -> list[Condition]:
        deployment = self.observed.deployment
        conditions = Conditions.of(deployment, self.now)
        name = deployment.spec.work_pool_ref.name
        if self.broken:
            message = "; ".join(self.broken)
            conditions.set("Ready", False, "InvalidSpec", message)
            conditions.set("Degraded", True, "InvalidSpec", message)
        elif self.problems:
            message = "; ".join(self.problems)
            conditions.set("Ready", False, "InvalidSchedule", message)
            conditions.set("Degraded", True, "InvalidSchedule", message)
        elif self.observed.pool is None:
            message = (
                f"spec.workPoolRef.name: no WorkPool named {name!r} in namespace "
                f"{deployment.metadata.namespace!r}: create it or correct the name"
            )
            conditions.set("Ready", False, "WorkPoolNotFound", message)
            conditions.set("Degraded", True, "WorkPoolNotFound", message)
        else:
            conditions.set("Ready", True, "Suspended" if deployment.spec.suspend else "Serving")
            conditions.set("Degraded", False, "AsExpected")
        conditions.set("Progressing", self.active > 0, "RunsActive" if self.active else "Idle")
        return conditions.items

    def _event(self, severity: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        deployment = self.observed.deployment
        self.actions.append(EmitEvent(key_of(deployment), deployment.metadata.uid or "", severity, reason, message))
