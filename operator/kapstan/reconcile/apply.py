"""Carries out a plan, action by action, in order; the first that fails ends it.

Called by the loop. Every action may be repeated: names are given, statuses are fenced by the version that was decided
on, and "it is there already" is an answer, not an error.
"""

from __future__ import annotations

from collections.abc import Callable

from kapstan.errors import (
    AdmissionRefused,
    ClusterRefused,
    InvalidResource,
    KapstanError,
    NotFound,
    QuotaUsedUp,
    ResourceConflict,
)
from kapstan.ports import Key, Manifest
from kapstan.reconcile.observed import RunBrief, Tokens
from kapstan.reconcile.plan import (
    Action,
    AskPlace,
    CancelRun,
    CreateRun,
    DeclareEnd,
    DeleteRun,
    DrainMember,
    EmitEvent,
    EnsureWorkers,
    ExpireSession,
    Grant,
    Plan,
    RemoveAttempt,
    SetDeletionCost,
    SetReplicas,
    SetStatus,
    SpendTokens,
    StartAttempt,
    StopAttempt,
)
from kapstan.reconcile.world import World
from kapstan.resources.flowrun import DiagnosisCategory


class LaunchRefused(KapstanError):
    """The launcher can never start this attempt as it is."""


class LaunchDelayed(KapstanError):
    """The launcher may not start this attempt now; ``category`` says for what it waits."""

    def __init__(self, message: str, category: DiagnosisCategory) -> None:
        self.category: DiagnosisCategory = category
        super().__init__(message)


class WorkersRefused(KapstanError):
    """The launcher cannot have a TaskWorker's members as they are described, or may not."""


class Applier:
    """Acts for one loop."""

    def __init__(self, world: World, enqueue: Callable[[Key], None], wrote: Callable[[Manifest], None]) -> None:
        self._world = world
        self._enqueue = enqueue
        self._wrote = wrote

    async def apply(self, plan: Plan, version: str) -> None:
        """Act; ``version`` is that of the object which the plan was made on.

        Raises:
            ResourceConflict: the object has changed since; nothing after the status was done.
            LaunchRefused, LaunchDelayed, WorkersRefused: see there.
            ClusterUnavailable, BackendError: as they come.
        """
        for action in plan.actions:
            version = await self._act(action, version)

    async def _act(self, action: Action, version: str) -> str:
        match action:
            case SetStatus():
                return await self._set_status(action, version)
            case StartAttempt() | StopAttempt() | RemoveAttempt() | DeleteRun():
                await self._act_on_attempt(action)
            case AskPlace() | Grant() | SpendTokens():
                self._act_on_memory(action)
            case EnsureWorkers() | SetDeletionCost() | DrainMember() | ExpireSession():
                await self._act_on_workers(action)
            case DeclareEnd():
                declare = self._world.records(action.namespace).declare
                await self._world.call(declare, action.run_id, action.state, action.message)
            case CreateRun():
                await self._create_run(action.manifest)
            case CancelRun():
                await self._cancel_run(action.run)
            case SetReplicas():
                await self._world.cluster.set_scale(action.worker, action.replicas)
            case EmitEvent():
                await self._world.cluster.emit(
                    action.key, uid=action.uid, severity=action.severity, reason=action.reason, message=action.message
                )
        return version

    async def _set_status(self, action: SetStatus, version: str) -> str:
        stored = await self._world.cluster.set_status(
            action.key, action.status, uid=action.uid, resource_version=version or None
        )
        if action.key.kind == "FlowRun" and RunBrief.of(stored).in_flight:
            # Recorded: from here on the status holds the place.
            self._world.memory.leave_line(action.key)
        self._wrote(stored)
        return str(stored["metadata"].get("resourceVersion") or "")

    async def _act_on_attempt(self, action: StartAttempt | StopAttempt | RemoveAttempt | DeleteRun) -> None:
        match action:
            case StartAttempt():
                try:
                    await self._world.launcher(action.pool_type).start(action.request)
                except (InvalidResource, AdmissionRefused) as error:
                    raise LaunchRefused(str(error)) from error
                except QuotaUsedUp as error:
                    raise LaunchDelayed(str(error), "QuotaExceeded") from error
                except ClusterRefused as error:
                    raise LaunchDelayed(str(error), "ConfigError") from error
            case StopAttempt():
                await self._world.launcher(action.pool_type).stop(action.run, action.job, grace=action.grace)
            case RemoveAttempt():
                await self._world.launcher(action.pool_type).remove(action.run, action.job)
            case DeleteRun():
                for _, job in action.attempts:
                    await self._world.launcher("").remove(action.run, job)
                try:
                    await self._world.cluster.delete(action.run)
                except NotFound:
                    return

    def _act_on_memory(self, action: AskPlace | Grant | SpendTokens) -> None:
        match action:
            case AskPlace():
                if self._world.memory.waiting.get(action.run) != action.pool:
                    self._world.memory.waiting[action.run] = action.pool
                    self._enqueue(action.pool)
            case Grant():
                self._world.memory.granted[action.run] = self._world.memory.waiting.pop(action.run)
                self._enqueue(action.run)
            case SpendTokens():
                self._world.memory.tokens[action.pool] = Tokens(action.left, action.at)

    async def _act_on_workers(self, action: EnsureWorkers | SetDeletionCost | DrainMember | ExpireSession) -> None:
        assert self._world.worker_launcher is not None
        match action:
            case EnsureWorkers():
                try:
                    await self._world.worker_launcher.ensure_workers(action.request)
                except (InvalidResource, ClusterRefused) as error:
                    raise WorkersRefused(str(error)) from error
            case SetDeletionCost():
                await self._world.worker_launcher.set_deletion_cost(action.worker, action.member, action.cost)
            case DrainMember():
                queue = await self._world.call(self._world.queues, action.worker.namespace)
                await self._world.call(queue.drain_session, action.session_prefix)
                self._world.memory.draining.setdefault(action.worker, {}).setdefault(action.member, action.since)
            case ExpireSession():
                queue = await self._world.call(self._world.queues, action.worker.namespace)
                await self._world.call(queue.expire_session, action.session_prefix)
                self._world.memory.member_expired(action.worker, action.session_prefix, action.boot)

    async def _create_run(self, manifest: Manifest) -> None:
        try:
            stored = await self._world.cluster.create(manifest)
        except ResourceConflict:
            return
        self._wrote(stored)
        self._enqueue(Key("FlowRun", stored["metadata"].get("namespace") or "default", stored["metadata"]["name"]))

    async def _cancel_run(self, key: Key) -> None:
        manifest = await self._world.cluster.get(key)
        if manifest is None:
            return
        metadata = {name: manifest["metadata"][name] for name in ("name", "namespace")}
        wanted = {**manifest, "metadata": metadata, "spec": {**manifest["spec"], "cancel": True}}
        wanted.pop("status", None)
        stored = await self._world.cluster.apply(wanted)
        self._wrote(stored)
        self._enqueue(key)
