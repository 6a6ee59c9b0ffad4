"""What only a TaskWorker does: keep members, name those that go, drain them, end the sessions of dead ones."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from kapstan.errors import ClusterRefused, InvalidResource
from kapstan.ports import Key, Launcher, WorkersRequest
from kapstan.reconcile.kinds.task_worker.drains import Drains
from kapstan.reconcile.plan import Acting, Refused
from kapstan.resources import TaskWorker, violations


class WorkersRefused(Refused):
    """The launcher cannot have a TaskWorker's members as they are described, or may not."""


@dataclass(frozen=True, slots=True)
class EnsureWorkers:
    """Keep so many members of a TaskWorker."""

    request: WorkersRequest

    async def perform(self, acting: Acting) -> None:
        broken = next(violations(TaskWorker.from_dict(self.request.worker), beyond_cel=True), None)
        if broken is not None:
            raise WorkersRefused(f"{broken[0]}: {broken[1]}")
        try:
            await _launcher(acting).ensure_workers(self.request)
        except (InvalidResource, ClusterRefused) as error:
            raise WorkersRefused(str(error)) from error


@dataclass(frozen=True, slots=True)
class SetReplicas:
    """Write ``spec.replicas`` of a TaskWorker, as an autoscaler does."""

    worker: Key
    replicas: int

    async def perform(self, acting: Acting) -> None:
        await acting.world.cluster.set_scale(self.worker, self.replicas)


@dataclass(frozen=True, slots=True)
class SetDeletionCost:
    """Name the member that must go first; the next action waits for the answer."""

    worker: Key
    member: str
    cost: int

    async def perform(self, acting: Acting) -> None:
        await _launcher(acting).set_deletion_cost(self.worker, self.member, self.cost)


@dataclass(frozen=True, slots=True)
class DrainMember:
    """Ask a member's sessions to claim no more."""

    worker: Key
    member: str
    session_prefix: str
    since: datetime
    """When it was asked first."""

    async def perform(self, acting: Acting) -> None:
        queue = await acting.world.call(acting.world.queues, self.worker.namespace)
        await acting.world.call(queue.drain_session, self.session_prefix)
        draining = acting.world.memory(Drains).draining
        draining.setdefault(self.worker, {}).setdefault(self.member, self.since)


@dataclass(frozen=True, slots=True)
class ExpireSession:
    """A member's process was seen dead: its runs go back to the queue now."""

    worker: Key
    session_prefix: str
    boot: int | None = None
    """Which boot of a member that is still there; None: the member itself is gone."""

    async def perform(self, acting: Acting) -> None:
        queue = await acting.world.call(acting.world.queues, self.worker.namespace)
        # A member that is not listed any more may run on: it was removed by force, or its node cannot be reached.
        seen = self.boot is not None
        await acting.world.call(lambda: queue.expire_session(self.session_prefix, seen=seen))
        acting.world.memory(Drains).member_expired(self.worker, self.session_prefix, self.boot)


def _launcher(acting: Acting) -> Launcher:
    assert acting.world.worker_launcher is not None
    return acting.world.worker_launcher
