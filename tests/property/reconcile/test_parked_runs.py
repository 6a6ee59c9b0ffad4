"""A run that waits for somebody to decide: what is told of it, whatever is killed or deleted meanwhile, what it costs,
and that it goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.property.reconcile.queued import Queued
from tests.property.reconcile.simulation import NAMESPACE, POOL, Fate, Killed, Simulation, Writes

from kapstan.ports import Key

FATES: tuple[Fate, ...] = ("Lost", "Parked")
RUN = Key("FlowRun", NAMESPACE, "run")
PARKED = ("Suspended", [(1, "Lost"), (2, "Suspended")], 1)
OVER = ("Completed", [(1, "Lost"), (2, "Suspended"), (3, "Completed")], 1)


async def told(simulation: Simulation) -> list[str]:
    """The messages of the condition that a run is parked."""
    manifest = await simulation.cluster.get(RUN)
    assert manifest is not None
    conditions = manifest["status"]["conditions"]
    return [one["message"] for one in conditions if one["type"] == "EffectsInDoubt"]


async def to_the_end(simulation: Simulation) -> int:
    """Until it is parked, and then decided, and over; how often the operator was killed."""
    await simulation.give("run")
    kills = 0
    while True:
        try:
            await (simulation.restart() if kills else simulation.loop.sync())
            await simulation.finish()
            if simulation.infrastructure.decided:
                return kills
            assert await simulation.outcome("run") == PARKED
            (message,) = await told(simulation)
            assert "kapstan task-run resolve" in message
            simulation.infrastructure.decided = True
            await simulation.finish()
            return kills
        except Killed:
            kills += 1


def test_it_is_parked_and_goes_on_once_wherever_the_operator_is_killed(tmp_path: Path) -> None:
    async def body() -> None:
        reference = Simulation(tmp_path / "reference", FATES)
        assert await to_the_end(reference) == 0
        assert await reference.outcome("run") == OVER
        assert await told(reference) == []
        for number in range(reference.writes.done):
            for after in (False, True):
                simulation = Simulation(tmp_path / f"{number}-{after}", FATES, writes=Writes(number, after))
                assert await to_the_end(simulation) == 1, f"write {number} was not reached"
                assert await simulation.outcome("run") == OVER
                assert await told(simulation) == []
                assert set(simulation.infrastructure.created.values()) == {1}

    asyncio.run(body())


async def parked(root: Path) -> Simulation:
    simulation = Simulation(root, FATES)
    await simulation.give("run", pool={"concurrency": {"maxInFlight": 1}})
    await simulation.loop.sync()
    await simulation.finish()
    assert await simulation.outcome("run") == PARKED
    return simulation


def test_it_goes_on_by_itself_and_nobody_has_to_tell_the_operator(tmp_path: Path) -> None:
    async def body() -> None:
        simulation = await parked(tmp_path)
        at_rest = simulation.version()
        await simulation.settle(until=3600)
        assert simulation.version() == at_rest, "nothing is written while nobody has decided"
        simulation.infrastructure.decided = True
        await simulation.settle(until=61)
        assert await simulation.outcome("run") == ("Pending", [*PARKED[1], (3, None)], 1)

    asyncio.run(body())


def test_it_holds_no_place_and_leaves_nothing_when_it_is_deleted(tmp_path: Path) -> None:
    async def body() -> None:
        simulation = await parked(tmp_path)
        await simulation.ask("other")
        await simulation.finish()
        assert (await simulation.outcome("other"))[0] == "Suspended", "it had the place, and is parked as well"
        await simulation.delete("run")
        simulation.infrastructure.decided = True
        await simulation.finish()
        assert await simulation.cluster.get(RUN) is None
        assert (await simulation.outcome("other"))[0] == "Completed"
        left = [job for job, one in simulation.infrastructure.processes.items() if not one.removed and "run" in job]
        assert left == []
        pool = await simulation.cluster.get(POOL)
        assert pool is not None
        assert pool["status"].get("inFlight", 0) == 0
        assert "run-3" not in simulation.infrastructure.created

    asyncio.run(body())


def test_a_cancel_ends_it(tmp_path: Path) -> None:
    async def body() -> None:
        simulation = await parked(tmp_path)
        await simulation.ask("run", cancel=True)
        await simulation.finish()
        assert (await simulation.outcome("run"))[0] == "Cancelled"
        assert await told(simulation) == []
        simulation.infrastructure.decided = True
        await simulation.finish()
        assert "run-3" not in simulation.infrastructure.created

    asyncio.run(body())


async def turns(simulation: Queued, seconds: float) -> int:
    count, until = 0, simulation.now + seconds
    while (due := simulation.loop.queue.next_due) is not None and due <= until:
        simulation.now = max(simulation.now, due)
        count += await simulation.work()
    simulation.now = until
    return count


def test_what_it_costs_while_nobody_decides(tmp_path: Path) -> None:
    """A turn a minute, which asks once and reads and writes nothing of the API server. One that is not parked is never
    asked for."""

    async def body(root: Path, fates: tuple[Fate, ...]) -> tuple[Any, ...]:
        simulation = Queued(root, fates)
        await simulation.give("run")
        await simulation.loop.sync()
        await simulation.work()
        await simulation.end_one()
        await simulation.work()
        await turns(simulation, 600)
        simulation.recording.counts.clear()
        asked = simulation.infrastructure.doubts_asked
        count = await turns(simulation, 600)
        simulation.loop.close()
        return (
            (await simulation.outcome("run"))[0],
            count,
            simulation.infrastructure.doubts_asked - asked,
            dict(simulation.recording.counts),
        )

    assert asyncio.run(body(tmp_path / "parked", ("Parked",))) == ("Suspended", 10, 10, {})
    assert asyncio.run(body(tmp_path / "done", ("Completed",))) == ("Completed", 0, 0, {})


async def scheduled(simulation: Simulation) -> list[tuple[str, str]]:
    """Name and phase of each run, by name."""
    found = [(one["metadata"]["name"], one.get("status", {}).get("phase", "")) for one in
             await simulation.cluster.list("FlowRun")]  # fmt: skip
    return sorted(found)


@pytest.mark.parametrize(
    ("policy", "meanwhile", "after"),
    [
        ("Allow", ["Suspended", "Suspended", "Suspended"], ["Completed", "Completed", "Completed"]),
        ("Forbid", ["Suspended"], ["Completed"]),
        ("Replace", ["Cancelled", "Cancelled", "Suspended"], ["Cancelled", "Cancelled", "Completed"]),
    ],
)
def test_a_schedule_treats_it_as_a_run_that_is_active(
    tmp_path: Path, policy: str, meanwhile: list[str], after: list[str]
) -> None:
    async def body() -> None:
        simulation = Simulation(tmp_path, ("Parked",))
        schedules = [{"name": "hourly", "interval": 3600}]
        await simulation.give(
            schedules=schedules, concurrency={"limit": 1, "policy": policy} if policy != "Allow" else {}
        )
        await simulation.loop.sync()
        await simulation.finish()
        simulation.now -= simulation.now % 3600
        for _ in range(3):
            simulation.now += 3601
            await simulation.finish()
        assert [phase for _, phase in await scheduled(simulation)] == meanwhile
        simulation.infrastructure.decided = True
        await simulation.finish()
        assert [phase for _, phase in await scheduled(simulation)] == after
        attempts = [process.number for process in simulation.infrastructure.recorded]
        assert max(attempts) == 2, "one attempt before the decision, and one after it"

    asyncio.run(body())
