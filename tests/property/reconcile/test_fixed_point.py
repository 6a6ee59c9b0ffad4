"""Whatever is dropped, repeated or reordered on the way, the same point is reached, and no attempt is made twice."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.reconcile.simulation import DEPLOYMENT, NAMESPACE, POOL, Fate, Simulation

from kapstan.ports import Key

NAMES = ("one", "two", "three")
RUNS = [Key("FlowRun", NAMESPACE, name) for name in NAMES]

events = st.one_of(
    st.tuples(st.just("turn"), st.integers(1, 4)),
    st.tuples(st.just("hear"), st.sampled_from([*RUNS, POOL, DEPLOYMENT])),
    st.tuples(st.just("old news"), st.sampled_from(RUNS)),
    st.tuples(st.just("progress"), st.sampled_from([f"{name}-{number}" for name in NAMES for number in (1, 2, 3)])),
    st.tuples(st.just("time"), st.sampled_from([0.1, 1.0, 30.0])),
    st.tuples(st.just("restart"), st.none()),
)
fates = st.lists(st.sampled_from(["Lost", "HandedBack", "Completed", "Failed", "Parked"]), max_size=3)


async def happen(simulation: Simulation, kept: dict[Key, Any], what: str, about: Any) -> None:
    match what:
        case "turn":
            for _ in range(about):
                await simulation.step()
        case "hear":
            simulation.loop.enqueue(about)
        case "old news":
            now = await simulation.cluster.get(about)
            simulation.loop.changed(kept.get(about, now))
            kept[about] = now
        case "progress":
            simulation.infrastructure.progress(about)  # and nobody is told
        case "time":
            await simulation.settle(until=about)
        case _:
            await simulation.restart()


async def end_of(root: Path, script: list[Fate], history: list[tuple[str, Any]], limit: int | None) -> Simulation:
    simulation = Simulation(root, script)
    concurrency = {"concurrency": {"maxInFlight": limit}} if limit else {}
    await simulation.give(*NAMES, pool=concurrency)
    await simulation.loop.sync()
    kept: dict[Key, Any] = {}
    for what, about in history:
        await happen(simulation, kept, what, about)
        if limit is not None:
            living = sum(process.stage < 2 for process in simulation.infrastructure.processes.values())
            assert living <= limit, "more in flight than the pool allows"
    await simulation.finish()
    return simulation


async def undisturbed(root: Path, script: list[Fate], limit: int | None) -> list[tuple[Any, ...]]:
    """What the runs come to where everything is heard at once; worked out once per script."""
    known = (tuple(script), limit)
    if known not in _undisturbed:
        simulation = await end_of(root, script, [], limit)
        _undisturbed[known] = [await simulation.outcome(name) for name in NAMES]
    return _undisturbed[known]


_undisturbed: dict[tuple[tuple[Fate, ...], int | None], list[tuple[Any, ...]]] = {}


@settings(max_examples=25, deadline=None)
@given(fates, st.lists(events, max_size=40), st.sampled_from([None, 1, 2]))
def test_one_fixed_point(script: list[Fate], history: list[tuple[str, Any]], limit: int | None) -> None:
    async def body(root: Path) -> None:
        simulation = await end_of(root / "disturbed", script, history, limit)
        outcomes = [await simulation.outcome(name) for name in NAMES]
        assert outcomes == await undisturbed(root / "undisturbed", script, limit)
        assert set(simulation.infrastructure.created.values()) <= {1}
        assert simulation.infrastructure.together <= 1, "two attempts of one run at a time"
        at_rest = simulation.version()
        await simulation.restart()
        await simulation.finish()
        assert simulation.version() == at_rest, "something is written although nothing has changed"

    with tempfile.TemporaryDirectory() as root:
        asyncio.run(body(Path(root)))
