"""TaskWorker: as many members as are wanted, and those that go leave empty-handed.

Called by the loop. What is taken away is drained first: the member is asked to claim no more and is named as the one to
go; once that is answered and nothing runs there, the number falls by one. Redis away: nobody is taken away.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from kapstan import ids
from kapstan.ports import SessionInfo, WorkerMember, WorkersRequest
from kapstan.reconcile.kinds.task_worker.actions import (
    DrainMember,
    EnsureWorkers,
    ExpireSession,
    SetDeletionCost,
    SetReplicas,
)
from kapstan.reconcile.kinds.task_worker.observed import WorkersObserved
from kapstan.reconcile.kinds.task_worker.parked import told
from kapstan.reconcile.plan import Action, EmitEvent, Plan
from kapstan.reconcile.status import Conditions, changed_status, key_of
from kapstan.resources import Condition
from kapstan.resources.taskworker import TaskWorkerStatus

DRAINING_COST = -100
"""Deletion cost of a member that drains."""
EMPTY_COST = -1000
"""Deletion cost of the member that goes next: lower than that of any other."""
_DOUBT = "EffectsInDoubt"
LOOK_AT_DRAIN = timedelta(milliseconds=500)
LOOK_AT_LOAD = timedelta(seconds=10)


def reconcile(observed: WorkersObserved, now: datetime) -> Plan:
    """The next step of a TaskWorker."""
    return _Step(observed, now).plan()


def refused(observed: WorkersObserved, message: str, now: datetime) -> Plan:
    """The launcher said that the members cannot be had so: say so; the loop tries again."""
    worker = observed.worker
    conditions = Conditions.of(worker, now)
    conditions.set("Ready", False, "Refused", message)
    conditions.set("Progressing", False, "Refused", message)
    conditions.set("Degraded", True, "Refused", message)
    update = {"observed_generation": worker.metadata.generation, "conditions": conditions.items}
    write = changed_status(worker, worker.status.model_copy(update=update))
    event = EmitEvent(key_of(worker), worker.metadata.uid or "", "Warning", "Refused", message)
    return Plan((*write, event) if write else ())


@dataclass(slots=True)
class _Step:
    observed: WorkersObserved
    now: datetime
    actions: list[Action] = field(default_factory=list[Action])

    def plan(self) -> Plan:
        key = key_of(self.observed.worker)
        self.actions.extend(ExpireSession(key, prefix, boot) for prefix, boot in self.observed.gone.items())
        wanted, asked_for = self._wanted(), self.observed.members.wanted
        requeue = self.now + LOOK_AT_LOAD
        new = self.observed.worker.metadata.generation != self.observed.worker.status.observed_generation
        if wanted >= asked_for:
            # Said at every look: a launcher that has it so already does nothing, one that lost a member makes another.
            self._ensure(wanted)
        elif self.observed.sessions is None:
            requeue = self.now + LOOK_AT_DRAIN * 4
        else:
            if new:
                self._ensure(asked_for)
            self._take_away(wanted, asked_for)
            requeue = self.now + LOOK_AT_DRAIN
        self.actions.extend(changed_status(self.observed.worker, self._status(wanted)))
        self._tell_parked()
        return Plan(tuple(self.actions), requeue)

    def _tell_parked(self) -> None:
        """An Event where a run is parked that the condition did not name yet."""
        worker, parked = self.observed.worker, self.observed.parked
        if not parked:
            return
        before = next((c.message for c in worker.status.conditions if c.type == _DOUBT), "")
        if str(ids.to_uuid(parked[0].run_id)) not in before:
            event = EmitEvent(key_of(worker), worker.metadata.uid or "", "Warning", "Parked", told(parked))
            self.actions.append(event)

    # ------------------------------------------------------------------ how many

    def _wanted(self) -> int:
        spec = self.observed.worker.spec
        if spec.suspend:
            return 0
        if spec.autoscaling is None:
            return spec.replicas
        # By the queue's depth it will scale one day; until then replicas is kept within the bounds.
        wanted = min(max(spec.replicas, spec.autoscaling.min_replicas), spec.autoscaling.max_replicas)
        if wanted != spec.replicas:
            self.actions.append(SetReplicas(key_of(self.observed.worker), wanted))
        return wanted

    def _ensure(self, replicas: int) -> None:
        self.actions.append(EnsureWorkers(WorkersRequest(self.observed.worker.to_dict(), replicas)))

    # ------------------------------------------------------------------ who goes

    def _take_away(self, wanted: int, asked_for: int) -> None:
        """Drain as many members as are too many; let the first go that is empty."""
        victims = self._victims()
        if len(victims) < asked_for:
            # Fewer are there than were asked for: the next number takes nobody away.
            self._ensure(asked_for - 1)
            return
        staying = [member for member in victims if member.deletion_cost != EMPTY_COST]
        if len(staying) > asked_for:
            # A rollout: more are there than were asked for. Those that serve nothing yet are the first to go, so that a
            # rollout that is stuck holds nothing up.
            victims = staying
        elif len(victims) > asked_for:
            return  # the one that was named last has not begun to go
        key, victims = key_of(self.observed.worker), victims[: len(victims) - wanted]
        for victim in victims:
            if not self._asked(victim):
                self.actions.append(DrainMember(key, victim.name, victim.session_prefix, self.now))
            if victim.deletion_cost > DRAINING_COST:
                self.actions.append(SetDeletionCost(key, victim.name, DRAINING_COST))
        gone = next((victim for victim in victims if self._may_go(victim)), None)
        if gone is not None:
            if gone.deletion_cost != EMPTY_COST:
                self.actions.append(SetDeletionCost(key, gone.name, EMPTY_COST))
            self._ensure(asked_for - 1)
            how = "empty" if self._claimed(gone) == 0 else "after its drain timeout"
            uid = self.observed.worker.metadata.uid or ""
            self.actions.append(EmitEvent(key, uid, "Normal", "ScaledDown", f"{gone.name} goes, {how}"))

    def _victims(self) -> list[WorkerMember]:
        """Those that drain already, then those that serve nothing yet, then the idle, then the newest."""
        members = [member for member in self.observed.members.members if not member.ending]
        newest_last = {member.name: place for place, member in enumerate(members)}
        return sorted(
            members,
            key=lambda member: (
                not self._asked(member),
                member.deletion_cost,
                member.ready,
                self._claimed(member),
                -newest_last[member.name],
            ),
        )

    def _may_go(self, member: WorkerMember) -> bool:
        if not self._asked(member):
            return False
        since = self.observed.draining_since.get(member.name)
        timeout = timedelta(seconds=self.observed.worker.spec.drain.timeout_seconds)
        overdue = since is not None and self.now >= since + timeout
        return overdue or (self._claimed(member) == 0 and all(session.draining for session in self._sessions(member)))

    def _asked(self, member: WorkerMember) -> bool:
        sessions = self._sessions(member)
        asked = member.name in self.observed.draining_since
        return all(session.draining for session in sessions) if sessions else asked

    def _sessions(self, member: WorkerMember) -> list[SessionInfo]:
        return [
            session for session in self.observed.sessions or () if session.session.startswith(member.session_prefix)
        ]

    def _claimed(self, member: WorkerMember) -> int:
        return sum(session.claimed for session in self._sessions(member))

    # ------------------------------------------------------------------ status

    def _status(self, wanted: int) -> TaskWorkerStatus:
        worker = self.observed.worker
        members = [member for member in self.observed.members.members if not member.ending]
        update: dict[str, object] = {
            "observed_generation": worker.metadata.generation,
            "replicas": len(members),
            "ready_replicas": sum(member.ready for member in members),
            "selector": self.observed.members.selector or worker.status.selector,
            "conditions": self._conditions(wanted, members),
        }
        if self.observed.sessions is not None:
            update["busy_replicas"] = sum(self._claimed(member) > 0 for member in members)
            update["draining_replicas"] = sum(
                any(session.draining for session in self._sessions(member))
                or member.name in self.observed.draining_since
                for member in members
            )
        if self.observed.depth is not None:
            oldest = self.observed.depth.oldest_ready_seconds
            update["backlog"] = self.observed.depth.ready
            update["oldest_age_seconds"] = None if oldest is None else float(round(oldest))
        return worker.status.model_copy(update=update)

    def _conditions(self, wanted: int, members: list[WorkerMember]) -> list[Condition]:
        worker = self.observed.worker
        conditions = Conditions.of(worker, self.now)
        ready = sum(member.ready for member in members)
        every = self.observed.members.members
        stuck = next(
            (f"{member.name}: {member.message}" for member in every if member.message and not member.ready), ""
        )
        stuck = stuck or self.observed.members.problem
        if worker.spec.suspend:
            conditions.set("Ready", False, "Suspended", "spec.suspend is set: every replica is taken away")
        elif ready >= wanted:
            conditions.set("Ready", True, "Serving" if wanted else "ScaledToZero")
        else:
            reason = "MembersNotReady" if members else "Starting"
            conditions.set("Ready", False, reason, stuck or f"{ready} of {wanted} serve")
        moving = len(members) != wanted or self.observed.members.wanted != wanted
        scaling = "ScalingUp" if len(members) < wanted else "Draining"
        conditions.set("Progressing", moving, scaling if moving else "AsWanted")
        if self.observed.sessions is None:
            conditions.set(
                "Degraded",
                True,
                "QueueUnavailable",
                f"Redis cannot be read, so nobody is taken away until it can: {self.observed.unreachable}",
            )
        elif stuck:
            conditions.set("Degraded", True, "MembersNotReady", stuck)
        else:
            conditions.set("Degraded", False, "AsExpected")
        if self.observed.parked:
            conditions.set(_DOUBT, True, "Parked", told(self.observed.parked))
        elif self.observed.parked is not None:
            conditions.drop(_DOUBT)
        if worker.spec.autoscaling is not None:
            conditions.set(
                "ScalingActive",
                False,
                "NotYet",
                "this release does not scale by the queue's depth: replicas is kept within minReplicas and maxReplicas",
            )
        else:
            conditions.drop("ScalingActive")
        return conditions.items
