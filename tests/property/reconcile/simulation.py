"""A control plane with everything around it in the test's hand: time, processes, what is heard, where it is killed.

Resources are the real files of `LocalCluster`; the loop is the real one. Processes and their records are a model that
does what a script says, because what is under test is what the loop makes of it, in whatever order it hears.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from kapstan.cluster.local.cluster import LocalCluster
from kapstan.errors import ForeignObject, KapstanError
from kapstan.ids import RunId
from kapstan.ports import (
    AttemptEnd,
    AttemptObservation,
    AttemptRecord,
    Doubt,
    JobRequest,
    Key,
    Manifest,
    Queue,
    RunRecords,
    WorkerObservation,
    WorkersRequest,
)
from kapstan.reconcile.loop import Loop
from kapstan.resources import API_VERSION
from kapstan.states import AttemptOutcome

Fate = Literal["Completed", "Failed", "HandedBack", "Lost", "Stuck", "Parked"]
"""``Stuck``: its node is lost; it was told to go and is never seen to end. ``Parked``: it ends for an effect of which
nobody knows whether it happened."""
DOUBT = Doubt("shop:charge", "k" * 52, "a" * 22)
NAMESPACE = "default"
DEPLOYMENT = Key("Deployment", NAMESPACE, "nightly")
POOL = Key("WorkPool", NAMESPACE, "pool")


class Killed(BaseException):
    """The operator's process ended here."""


@dataclass
class Process:
    run_id: RunId
    number: int
    fate: Fate
    stage: int = 0
    """0: created, 1: begun, 2: ended."""
    stopping: bool = False
    ended_at: float = 0.0
    stop_by: float | None = None
    removed: bool = False
    """What infrastructure held of it was deleted; what it recorded stays."""

    @property
    def lives(self) -> bool:
        return self.stage == 1 and self.stop_by is None


@dataclass
class Writes:
    """Counts the writes of the operator and kills it at one: before it, or after it had its effect.

    With ``meanwhile`` that is called there instead, as something that somebody else does at this moment.
    """

    kill_at: int = -1
    after: bool = False
    done: int = 0
    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def perform(self, write: Callable[[], Any]) -> Any:
        mine, self.done = self.done, self.done + 1
        if self.meanwhile is not None:
            return await self._beside(write, self.meanwhile, mine)
        if mine == self.kill_at and not self.after:
            raise Killed
        try:
            answer = await write()
        except KapstanError:
            if mine == self.kill_at:
                raise Killed from None
            raise
        if mine == self.kill_at:
            raise Killed
        return answer

    async def _beside(self, write: Callable[[], Any], meanwhile: Callable[[], Awaitable[None]], mine: int) -> Any:
        if mine == self.kill_at and not self.after:
            await meanwhile()
        try:
            return await write()
        finally:
            if mine == self.kill_at and self.after:
                await meanwhile()


class Infrastructure:
    """Launcher and records of the simulation; processes go on only when `progress` says so."""

    flavour: Literal["job", "process"] = "job"

    def __init__(self, fates: Sequence[Fate], clock: Callable[[], float]) -> None:
        self._fates = fates
        self._clock = clock
        self.processes: dict[str, Process] = {}
        self.recorded: list[Process] = []
        self.foreign: frozenset[str] = frozenset()
        """Names of Jobs that are somebody else's."""
        self.created: Counter[str] = Counter()
        self.declared_ends: dict[RunId, str] = {}
        self.decided = False
        """Whether somebody has said what became of the effect of those that are parked."""
        self.doubts_asked = 0
        self.together = 0
        """Most attempts of one run that were begun and not ended at one time."""

    def fate(self, number: int) -> Fate:
        return self._fates[number - 1] if number <= len(self._fates) else "Completed"

    def progress(self, job: str) -> None:
        process = self.processes.get(job)
        if process is not None and process.stage < 2 and process.stop_by is None:
            if process.stage == 1 and process.fate == "Stuck":
                process.stopping, process.stop_by = True, self._clock()
            else:
                process.stage += 1
                process.ended_at = self._clock()
            living = Counter(other.run_id for other in self.processes.values() if other.lives)
            self.together = max(self.together, *living.values(), 0)

    # -- ports.Launcher

    async def start(self, request: JobRequest) -> None:
        if request.job in self.foreign:
            raise ForeignObject(f"Job {request.job} is somebody else's")
        there = self.processes.get(request.job)
        if there is None or there.removed:
            self.created[request.job] += 1
            made = Process(request.run_id, request.attempt, self.fate(request.attempt))
            self.processes[request.job] = made
            self.recorded.append(made)

    async def stop(self, run: Key, uid: str, job: str, *, grace: float) -> None:
        if job in self.processes:
            self.processes[job].stopping = True

    async def remove(self, run: Key, uid: str, job: str) -> None:
        if job in self.processes:
            self.processes[job].removed = True

    async def observe_attempts(self, run: Key, uid: str, jobs: Sequence[tuple[int, str]]) -> list[AttemptObservation]:
        return [self._observe(number, job) for number, job in jobs]

    def _observe(self, number: int, job: str) -> AttemptObservation:
        process = self.processes.get(job)
        if process is None or process.removed:
            return AttemptObservation(number, job, exists=False, ended=True)
        return AttemptObservation(
            number,
            job,
            exists=True,
            running=process.stage == 1,
            ended=process.stage == 2,
            stopping=process.stopping,
            stop_by=None if process.stop_by is None else datetime.fromtimestamp(process.stop_by, UTC).isoformat(),
        )

    async def ensure_workers(self, request: WorkersRequest) -> None: ...

    async def remove_workers(self, worker: Key) -> None: ...

    async def set_deletion_cost(self, worker: Key, member: str, cost: int) -> None: ...

    async def observe_workers(self, worker: Key, uid: str) -> WorkerObservation:
        return WorkerObservation(0)

    async def close(self) -> None: ...

    # -- ports.RunRecords

    def attempts(self, run_id: RunId) -> list[AttemptRecord]:
        begun = [process for process in self.recorded if process.run_id == run_id and process.stage > 0]
        return [self._record(process) for process in sorted(begun, key=lambda process: process.number)]

    def ended(self, run_id: RunId) -> AttemptRecord | None:
        return next((told for told in reversed(self.attempts(run_id)) if told.end is not None), None)

    def in_doubt(self, doubt: Doubt) -> bool:
        assert doubt == DOUBT
        self.doubts_asked += 1
        return not self.decided

    def declare(self, run_id: RunId, state: str, message: str) -> None:
        self.declared_ends[run_id] = state

    @staticmethod
    def _record(process: Process) -> AttemptRecord:
        end = None
        if process.stage == 2 and process.fate == "Parked":
            end = AttemptEnd(AttemptOutcome.SUSPENDED, process.ended_at, "why", doubt=DOUBT)
        elif process.stage == 2 and process.fate not in ("Lost", "Stuck"):
            end = AttemptEnd(AttemptOutcome(process.fate), process.ended_at)
        return AttemptRecord(process.number, 0.0, end)


class KillableCluster(LocalCluster):
    """The real files; every write goes through `Writes`."""

    def __init__(self, root: Path, clock: Callable[[], float], writes: Writes) -> None:
        super().__init__(root, clock=clock)
        self._writes = writes

    async def create(self, manifest: Manifest) -> Manifest:
        return await self._writes.perform(lambda: LocalCluster.create(self, manifest))

    async def set_status(
        self, key: Key, status: Manifest, *, uid: str, resource_version: str | None = None
    ) -> Manifest:
        write = LocalCluster.set_status
        return await self._writes.perform(lambda: write(self, key, status, uid=uid, resource_version=resource_version))

    async def delete(self, key: Key, *, uid: str = "") -> None:
        await self._writes.perform(lambda: LocalCluster.delete(self, key, uid=uid))


class KillableLauncher:
    """The simulation's launcher as the operator reaches it: starts and stops are writes, too."""

    flavour: Literal["job", "process"] = "job"

    def __init__(self, infrastructure: Infrastructure, writes: Writes) -> None:
        self._writes = writes
        self._infrastructure = infrastructure

    def __getattr__(self, name: str) -> Any:
        return getattr(self._infrastructure, name)

    async def start(self, request: JobRequest) -> None:
        await self._writes.perform(lambda: self._infrastructure.start(request))

    async def stop(self, run: Key, uid: str, job: str, *, grace: float) -> None:
        await self._writes.perform(lambda: self._infrastructure.stop(run, uid, job, grace=grace))


@dataclass
class Simulation:
    """One world; the operator in it may be killed and started again."""

    root: Path
    fates: Sequence[Fate] = ()
    now: float = 1_772_452_800.0
    writes: Writes = field(default_factory=Writes)

    def __post_init__(self) -> None:
        self.infrastructure = Infrastructure(self.fates, lambda: self.now)
        self.cluster = LocalCluster(self.root, clock=lambda: self.now)
        self.loop = self._operator()

    def _operator(self) -> Loop:
        records: Callable[[str], RunRecords] = lambda _: self.infrastructure  # noqa: E731

        def no_queue(_: str) -> Queue:
            raise AssertionError("no TaskWorker is simulated")

        launcher: Any = KillableLauncher(self.infrastructure, self.writes)
        return Loop(self._cluster(), {"kubernetes": launcher}, None, records, no_queue, clock=lambda: self.now)

    def _cluster(self) -> KillableCluster:
        """As the operator reaches it."""
        return KillableCluster(self.root, lambda: self.now, self.writes)

    async def restart(self) -> None:
        """Another operator, which knows what is stored and nothing else."""
        self.loop.close()
        self.loop = self._operator()
        await self.loop.sync()

    async def give(self, *names: str, pool: Mapping[str, Any] | None = None, **spec: Any) -> None:
        """A pool, a Deployment, and runs of it."""
        flow = {"flow": {"entrypoint": "flow.py:main", "image": "shop:1"}, "workPoolRef": {"name": "pool"}, **spec}
        for kind, name, given in (("WorkPool", "pool", dict(pool or {})), ("Deployment", "nightly", flow)):
            await self.cluster.create(_manifest(kind, name, given))
        for name in names:
            await self.cluster.create(_manifest("FlowRun", name, {"deploymentRef": {"name": "nightly"}}))

    async def step(self) -> bool:
        """One key's turn, if one is in line; whether there was one."""
        if len(self.loop.queue) == 0:
            return False
        key = await self.loop.queue.take()
        assert key is not None
        await self.loop.turn(key)
        return True

    async def settle(self, until: float = 0.0) -> None:
        """Work off what is in line, and what comes into line until that moment (seconds from now)."""
        horizon = self.now + until
        while True:
            while await self.step():
                pass
            due = self.loop.queue.next_due
            if due is None or due > horizon:
                self.now = max(self.now, horizon)
                return
            self.now = max(self.now, due)
            key = await self.loop.queue.take()
            assert key is not None
            await self.loop.turn(key)

    async def finish(self) -> None:
        """Everything is heard and every process goes its way, until nothing happens any more."""
        for _ in range(40):
            for kind in ("WorkPool", "Deployment", "FlowRun"):
                for manifest in await self.cluster.list(kind):
                    self.loop.changed(manifest)
                    self.loop.enqueue(Key(kind, NAMESPACE, manifest["metadata"]["name"]))
            await self.settle(until=70)
            before = self._stages()
            for job in list(self.infrastructure.processes):
                self.infrastructure.progress(job)
            if before == self._stages():
                return
        raise AssertionError("it does not come to rest")

    def _stages(self) -> list[tuple[str, int, float | None]]:
        return [(job, process.stage, process.stop_by) for job, process in self.infrastructure.processes.items()]

    async def delete(self, name: str) -> None:
        """Take a run away, as a person does; the operator hears of it."""
        key = Key("FlowRun", NAMESPACE, name)
        manifest = await self.cluster.get(key)
        assert manifest is not None
        await self.cluster.delete(key)
        self.loop.deleted(manifest)

    async def ask(self, name: str, **spec: Any) -> None:
        """Make a run, or change what is asked of it, as a person or GitOps does."""
        wanted = {"deploymentRef": {"name": "nightly"}, **spec}
        self.loop.changed(await self.cluster.apply(_manifest("FlowRun", name, wanted)))

    async def outcome(self, name: str) -> tuple[Any, ...]:
        """What a run came to: phase, attempts and how they ended, losses."""
        manifest = await self.cluster.get(Key("FlowRun", NAMESPACE, name))
        assert manifest is not None
        status = manifest.get("status") or {}
        attempts = [(attempt["number"], attempt.get("outcome")) for attempt in status.get("attempts", [])]
        return status.get("phase"), attempts, status.get("infrastructureLosses")

    def version(self) -> str:
        return (self.root / "version").read_text()


def _manifest(kind: str, name: str, spec: dict[str, Any]) -> Manifest:
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }
