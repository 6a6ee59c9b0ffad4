"""The operator is killed before and after each of its writes on a run's way; another one takes over."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.property.reconcile.simulation import NAMESPACE, Fate, Killed, Simulation, Writes

from kapstan.ports import Key

FATES: tuple[Fate, ...] = ("Lost", "HandedBack", "Completed")
MOST_WRITES = 60


async def through(simulation: Simulation) -> int:
    """The run's whole way; how often the operator was killed."""
    await simulation.give("run")
    kills = 0
    while True:
        try:
            if kills:
                await simulation.restart()
            else:
                await simulation.loop.sync()
            await simulation.finish()
        except Killed:
            kills += 1
            continue
        return kills


def test_every_attempt_is_created_once_and_the_end_is_the_same(tmp_path: Path) -> None:
    async def body() -> None:
        reference = Simulation(tmp_path / "reference", FATES)
        assert await through(reference) == 0
        expected: tuple[Any, ...] = await reference.outcome("run")
        assert expected == ("Completed", [(1, "Lost"), (2, "HandedBack"), (3, "Completed")], 1)
        writes = reference.writes.done
        assert 8 < writes < MOST_WRITES
        for number in range(writes):
            for after in (False, True):
                simulation = Simulation(tmp_path / f"{number}-{after}", FATES, writes=Writes(number, after))
                assert await through(simulation) == 1, f"write {number} was not reached"
                assert await simulation.outcome("run") == expected
                assert dict(simulation.infrastructure.created) == {"run-1": 1, "run-2": 1, "run-3": 1}

    asyncio.run(body())


def test_a_run_that_is_deleted_at_any_write_leaves_nothing_and_does_not_come_back(tmp_path: Path) -> None:
    async def body() -> None:
        reference = Simulation(tmp_path / "reference", FATES)
        await through(reference)
        for number in range(reference.writes.done):
            for after in (False, True):
                writes = Writes(number, after)
                simulation = Simulation(tmp_path / f"{number}-{after}", FATES, writes=writes)
                deleted: list[int] = []

                async def delete(simulation: Simulation = simulation, deleted: list[int] = deleted) -> None:
                    if not deleted:
                        deleted.append(1)
                        await simulation.delete("run")

                writes.meanwhile = delete
                assert await through(simulation) == 0
                assert deleted, f"write {number} was not reached"
                assert await simulation.cluster.get(Key("FlowRun", NAMESPACE, "run")) is None, f"{number} {after}"
                left = [job for job, one in simulation.infrastructure.processes.items() if not one.removed]
                assert left == [], f"{left} after write {number}, {after}"
                pool = await simulation.cluster.get(Key("WorkPool", NAMESPACE, "pool"))
                assert pool is not None
                assert pool.get("status", {}).get("inFlight", 0) == 0

    asyncio.run(body())


@pytest.mark.parametrize("times", [3])
def test_an_operator_that_is_killed_again_and_again_gets_there(tmp_path: Path, times: int) -> None:
    async def body() -> None:
        simulation = Simulation(tmp_path, FATES, writes=Writes(1, after=True))
        await simulation.give("run")
        kills = 0
        while True:
            try:
                await simulation.restart()
                await simulation.finish()
                break
            except Killed:
                kills += 1
                if kills < times:
                    simulation.writes.kill_at = simulation.writes.done + 1
        assert kills == times
        assert (await simulation.outcome("run"))[0] == "Completed"
        assert set(simulation.infrastructure.created.values()) == {1}

    asyncio.run(body())
