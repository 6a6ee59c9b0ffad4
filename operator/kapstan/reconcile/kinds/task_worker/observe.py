"""Gathers what the TaskWorker reconciler is shown: from the launcher, and from the queue."""

from __future__ import annotations

from collections.abc import Iterable

from kapstan.errors import BackendError
from kapstan.ports import Depth, Key, Manifest, RunRecord, SessionInfo, WorkerObservation
from kapstan.reconcile.kinds.task_worker.drains import Drains
from kapstan.reconcile.kinds.task_worker.observed import WorkersObserved
from kapstan.reconcile.kinds.task_worker.parked import ParkedLooks, look
from kapstan.reconcile.world import World
from kapstan.resources import TaskWorker


async def observe(world: World, manifest: Manifest) -> WorkersObserved:
    """A TaskWorker, its members, and what the queue says of them."""
    worker = TaskWorker.from_dict(manifest)
    key = Key("TaskWorker", worker.metadata.namespace, worker.metadata.name)
    assert world.worker_launcher is not None
    members = await world.worker_launcher.observe_workers(key, worker.metadata.uid or "")
    sessions, depth, unreachable = await world.call(_look_at_queue, world, key.namespace, members)
    tasks = _tasks(sessions or (), members)
    parked = await _parked(world, key.namespace) if tasks else None
    drains = world.memory(Drains)
    present = {member.name for member in members.members}
    draining = {name: since for name, since in drains.draining.get(key, {}).items() if name in present}
    drains.draining[key] = draining
    return WorkersObserved(
        worker=worker,
        members=members,
        sessions=sessions,
        depth=depth,
        unreachable=unreachable,
        parked=None if parked is None else tuple(record for record in parked if record.task in tasks),
        draining_since=dict(draining),
        gone=drains.gone_members(key, members),
    )


def _tasks(sessions: Iterable[SessionInfo], members: WorkerObservation) -> set[str]:
    """The tasks that the members serve."""
    prefixes = tuple(member.session_prefix for member in members.members)
    return {task for session in sessions if session.session.startswith(prefixes) for task in session.tasks}


async def _parked(world: World, namespace: str) -> tuple[RunRecord, ...] | None:
    if world.runs is None:
        return None
    looks = world.memory(ParkedLooks)
    if looks.is_due(namespace):
        looks.keep(namespace, await world.call(look, world.runs, namespace))
    return looks.of(namespace)


def _look_at_queue(
    world: World, namespace: str, members: WorkerObservation
) -> tuple[tuple[SessionInfo, ...] | None, Depth | None, str]:
    try:
        queue = world.queues(namespace)
        sessions = tuple(queue.sessions())
        prefixes = tuple(member.session_prefix for member in members.members)
        served = {each for session in sessions if session.session.startswith(prefixes) for each in session.served}
        return sessions, queue.depth(sorted(served)) if served else None, ""
    except BackendError as error:  # Redis is away, or the operator was given no key for this namespace
        return None, None, str(error)
