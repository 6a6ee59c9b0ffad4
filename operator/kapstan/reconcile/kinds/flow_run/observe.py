"""Gathers what the FlowRun reconciler is shown: from the cache, from the launcher, and from the run's record."""

from __future__ import annotations

import logging

from kapstan.errors import BackendError, KapstanError, SerializationError, StoreUnsafe
from kapstan.ids import RunId
from kapstan.ports import AttemptObservation, Doubt, Key, Manifest
from kapstan.reconcile.kinds.flow_run.observed import Record, RunObserved, run_id_of_run
from kapstan.reconcile.kinds.work_pool.places import Places
from kapstan.reconcile.world import World
from kapstan.resources import Deployment, FlowRun, WorkPool
from kapstan.states import TERMINAL_PHASES

log = logging.getLogger("kapstan.reconcile")


async def observe(world: World, manifest: Manifest, *, journal: bool) -> RunObserved:
    """A FlowRun; with ``journal`` its whole record is read from the store."""
    run = FlowRun.from_dict(manifest)
    key = Key("FlowRun", run.metadata.namespace, run.metadata.name)
    deployment = await world.read(Key("Deployment", key.namespace, run.spec.deployment_ref.name), Deployment)
    pool_name = deployment.spec.work_pool_ref.name if deployment else ""
    pool = await world.read(Key("WorkPool", key.namespace, pool_name), WorkPool) if pool_name else None
    launcher = world.launchers.get(pool.spec.type) if pool else None
    watcher = launcher or next(iter(world.launchers.values()), None)
    attempts: list[AttemptObservation] = []
    if run.status.attempts and watcher is not None:
        jobs = [(attempt.number, attempt.job) for attempt in run.status.attempts]
        attempts = await watcher.observe_attempts(key, run.metadata.uid or "", jobs)
    record = await _record(world, run, journal=journal)
    return RunObserved(
        run=run,
        deployment=deployment,
        pool=pool,
        launcher=launcher.flavour if launcher else None,
        place=world.memory(Places).place(key),
        attempts=tuple(attempts),
        record=record,
        in_doubt=await _in_doubt(world, run, record),
        twin=_twin(world, key) if run.spec.idempotency_key is not None else None,
    )


def _twin(world: World, key: Key) -> Key | None:
    """Of several objects that ask for one run, the one that has it: what is in flight, else the oldest."""
    brief = world.cache.brief(key)
    asking = [world.cache.brief(other) for other in world.cache.runs_of(brief.run_id)] if brief is not None else []
    first = min(
        (run for run in asking if run is not None),
        key=lambda run: (not run.in_flight, run.created, run.key.name),
        default=None,
    )
    return None if first is None or first.key == key else first.key


async def _record(world: World, run: FlowRun, *, journal: bool) -> Record:
    attempts = run.status.attempts
    if not journal and (not attempts or run.status.phase in TERMINAL_PHASES):
        return Record()
    run_id = run_id_of_run(run)
    return await world.call(_journal if journal else _index, world, run.metadata.namespace, run_id)


async def _in_doubt(world: World, run: FlowRun, record: Record) -> bool:
    """Whether nobody knows (or it cannot be asked) what became of the effect for which the last attempt ended."""
    last = record.of(run.status.attempts[-1].number) if run.status.attempts else None
    if last is None or last.end is None or last.end.doubt is None or run.status.phase in TERMINAL_PHASES:
        return True
    return await world.call(_still_in_doubt, world, run.metadata.namespace, last.end.doubt)


def _still_in_doubt(world: World, namespace: str, doubt: Doubt) -> bool:
    try:
        return world.records(namespace).in_doubt(doubt)
    except (KapstanError, ValueError) as error:  # also of a register that was not written by us
        log.warning("whether the key %s of namespace %s is decided cannot be read: %s", doubt.key, namespace, error)
        return True


def _journal(world: World, namespace: str, run_id: RunId) -> Record:
    try:
        return Record(tuple(world.records(namespace).attempts(run_id)), journal=True)
    except (BackendError, SerializationError) as error:  # also one that was written with another key
        return Record(unreachable=str(error), damaged=isinstance(error, (SerializationError, StoreUnsafe)))


def _index(world: World, namespace: str, run_id: RunId) -> Record:
    try:
        ended = world.records(namespace).ended(run_id)
    except BackendError:
        return Record()  # A shortcut that is closed: infrastructure or the journal will tell.
    return Record((ended,) if ended is not None else ())
