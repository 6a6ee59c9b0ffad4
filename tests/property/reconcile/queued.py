"""What one run costs the control plane while others wait: its turns, and what is read, listed and written for it.

The loop and the files of `LocalCluster` are real; every request is counted, and what is written is heard again, as a
watch of an API server tells it. Figures are counts, so that they are the same on every machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.property.reconcile.simulation import NAMESPACE, KillableCluster, Simulation

from kapstan.ports import Key, Kind, Manifest
from kapstan.states import TERMINAL_PHASES

PLACES = 4


class RecordingCluster(KillableCluster):
    """The files, with every request counted and every write heard by the loop afterwards."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.counts: Counter[str] = Counter()
        self.heard: list[Manifest] = []

    async def get(self, key: Key) -> Manifest | None:
        self.counts["reads"] += 1
        return await super().get(key)

    async def list(self, kind: Kind, namespace: str | None = None, **selectors: Any) -> list[Manifest]:
        found = await super().list(kind, namespace, **selectors)
        self.counts["listed"] += len(found)
        return found

    async def each(self, kind: Kind, namespace: str | None = None) -> AsyncIterator[Manifest]:
        async for manifest in super().each(kind, namespace):
            yield manifest

    async def set_status(self, *arguments: Any, **named: Any) -> Manifest:
        self.counts["writes"] += 1
        stored = await super().set_status(*arguments, **named)
        self.heard.append(stored)
        return stored


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run, on average."""

    turns: float
    reads: float
    listed: float
    writes: float


class Queued(Simulation):
    """A pool of a few places and more runs than it takes."""

    recording: RecordingCluster

    def _cluster(self) -> KillableCluster:
        self.recording = RecordingCluster(self.root, lambda: self.now, self.writes)
        return self.recording

    async def work(self) -> int:
        """Take every turn that is due and hear what was written, until nothing happens; how many turns it took."""
        turns, moved = 0, True
        while moved:
            moved = False
            while self.recording.heard:
                manifest = self.recording.heard.pop(0)
                phase = (manifest.get("status") or {}).get("phase")
                # A run that has ended leaves what the operator watches.
                (self.loop.deleted if phase in TERMINAL_PHASES else self.loop.changed)(manifest)
            due = self.loop.queue.next_due
            if len(self.loop.queue) or (due is not None and due <= self.now + 5):
                self.now = max(self.now, due or 0.0) if not len(self.loop.queue) else self.now
                key = await self.loop.queue.take()
                assert key is not None
                await self.loop.turn(key)
                turns, moved = turns + 1, True
        return turns

    async def end_one(self) -> None:
        """The oldest process in work begins, ends, and its record tells so."""
        job = next(job for job, process in self.infrastructure.processes.items() if process.stage < 2)
        self.infrastructure.progress(job)
        self.infrastructure.progress(job)
        self.loop.enqueue(Key("FlowRun", NAMESPACE, job.rsplit("-", 1)[0]))


async def cost_of_a_run(root: Path, queued: int, passed: int = 20) -> Cost:
    """Let ``passed`` runs go through a pool while ``queued`` wait behind them."""
    simulation = Queued(root)
    names = [f"run-{number:05d}" for number in range(queued + passed + PLACES)]
    await simulation.give(*names, pool={"concurrency": {"maxInFlight": PLACES}})
    await simulation.loop.sync()
    await simulation.work()
    simulation.recording.counts.clear()
    turns = 0
    for _ in range(passed):
        await simulation.end_one()
        turns += await simulation.work()
    simulation.loop.close()
    counts = simulation.recording.counts
    ended = sum(process.stage == 2 for process in simulation.infrastructure.processes.values())
    assert ended == passed
    assert len(simulation.infrastructure.processes) == passed + PLACES, "every free place was taken again"
    return Cost(turns / passed, counts["reads"] / passed, counts["listed"] / passed, counts["writes"] / passed)
