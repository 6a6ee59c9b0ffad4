"""The fixed point under the rules for lost nodes, foreign objects, resumed runs and objects that are made again."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.reconcile.simulation import DEPLOYMENT, NAMESPACE, POOL, Fate, Killed, Simulation, Writes

from kapstan.ports import Key

NAMES = ("one", "two")
RUNS = [Key("FlowRun", NAMESPACE, name) for name in NAMES]
LONG = 7_200.0
"""Seconds after which what has ended is deleted; while something runs, the operator looks at it every few seconds."""

events = st.one_of(
    st.tuples(st.just("turn"), st.integers(1, 4)),
    st.tuples(st.just("hear"), st.sampled_from([*RUNS, POOL, DEPLOYMENT])),
    st.tuples(st.just("progress"), st.sampled_from([f"{name}-{number}" for name in NAMES for number in (1, 2, 3)])),
    st.tuples(st.just("time"), st.sampled_from([0.1, 1.0, 30.0, 90.0])),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("resume"), st.sampled_from(NAMES)),
)
fates = st.lists(st.sampled_from(["Lost", "Stuck", "HandedBack", "Completed", "Failed"]), max_size=4)
foreign = st.sets(st.sampled_from(["one-1", "one-2", "two-1"]))


async def happen(simulation: Simulation, what: str, about: Any) -> None:
    match what:
        case "turn":
            for _ in range(about):
                await simulation.step()
        case "hear":
            simulation.loop.enqueue(about)
        case "progress":
            simulation.infrastructure.progress(about)  # and nobody is told
        case "time":
            await simulation.settle(until=about)
        case "resume":
            await simulation.ask(about, resume=1)
        case _:
            await simulation.restart()


async def end_of(root: Path, script: list[Fate], taken: set[str], history: list[tuple[str, Any]]) -> Simulation:
    simulation = Simulation(root, script)
    simulation.infrastructure.foreign = frozenset(taken)
    await simulation.give(*NAMES, pool={"concurrency": {"maxInFlight": 1}})
    await simulation.loop.sync()
    for what, about in history:
        await happen(simulation, what, about)
    await simulation.finish()
    for name in NAMES:
        await simulation.ask(name, resume=1)
    await simulation.finish()
    return simulation


@settings(max_examples=25, deadline=None)
@given(fates, foreign, st.lists(events, max_size=30))
def test_one_fixed_point(script: list[Fate], taken: set[str], history: list[tuple[str, Any]]) -> None:
    async def body(root: Path) -> None:
        simulation = await end_of(root / "disturbed", script, taken, history)
        undisturbed = await end_of(root / "undisturbed", script, taken, [])
        for name in NAMES:
            assert await simulation.outcome(name) == await undisturbed.outcome(name)
            assert (await simulation.outcome(name))[0] in ("Completed", "Failed", "Crashed")
        infrastructure = simulation.infrastructure
        assert set(infrastructure.created.values()) <= {1}
        assert not set(infrastructure.created) & taken, "a foreign Job was taken for ours"
        assert infrastructure.together <= 1, "two attempts of one run at a time"
        at_rest = simulation.version()
        await simulation.restart()
        await simulation.finish()
        assert simulation.version() == at_rest, "something is written although nothing has changed"

    with tempfile.TemporaryDirectory() as root:
        asyncio.run(body(Path(root)))


again = st.one_of(
    events,
    st.tuples(st.just("time"), st.just(LONG)),
    st.tuples(st.just("again"), st.sampled_from(["one", "two", "three"])),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["Lost", "HandedBack"]), max_size=2), st.lists(again, max_size=30))
def test_what_is_made_again_under_its_key_is_executed_once(script: list[Fate], history: list[tuple[str, Any]]) -> None:
    """``three`` carries the key of ``one``; finished objects go after an hour, and GitOps makes them again."""

    async def body(root: Path) -> None:
        simulation = Simulation(root, script)
        keys = {"one": "order-1", "two": "order-2", "three": "order-1"}

        async def applied(*names: str) -> None:
            for name in names:
                if await simulation.cluster.get(Key("FlowRun", NAMESPACE, name)) is None:
                    await simulation.ask(name, idempotencyKey=keys[name])

        await simulation.give(pool={"concurrency": {"maxInFlight": 2}}, ttlSecondsAfterFinished=3600)
        await simulation.loop.sync()
        await applied("one", "two")
        for what, about in history:
            if what == "again":
                await applied(about)
            elif what != "resume":
                await happen(simulation, what, about)
        await simulation.finish()
        await simulation.settle(until=LONG)
        assert await simulation.cluster.list("FlowRun") == [], "what was asked for goes when its time is over"
        await applied("one", "two", "three")
        await simulation.finish()
        assert {(await simulation.outcome(name))[0] for name in keys} == {"Completed"}
        finished = Counter(process.run_id for process in simulation.infrastructure.recorded if process.stage == 2)
        completed = Counter(
            process.run_id
            for process in simulation.infrastructure.recorded
            if process.stage == 2 and process.fate == "Completed"
        )
        assert sorted(completed.values()) == [1, 1], "two keys, two runs, each executed once"
        assert sum(finished.values()) == len(simulation.infrastructure.recorded)
        assert simulation.infrastructure.together <= 1

    with tempfile.TemporaryDirectory() as root:
        asyncio.run(body(Path(root)))


def test_an_operator_that_is_killed_at_any_write_gets_there(tmp_path: Path) -> None:
    """Through a foreign name, a lost node, a failure and a resume."""

    async def through(simulation: Simulation) -> int:
        simulation.infrastructure.foreign = frozenset({"run-1"})
        await simulation.give("run")
        kills, resumed = 0, False
        while True:
            try:
                await simulation.restart()
                await simulation.finish()
                if resumed:
                    return kills
                await simulation.ask("run", resume=1)
                resumed = True
            except Killed:
                kills += 1

    async def body() -> None:
        script: tuple[Fate, ...] = ("Completed", "Stuck", "Failed", "Completed")
        reference = Simulation(tmp_path / "reference", script)
        assert await through(reference) == 0
        expected = await reference.outcome("run")
        ends = [(1, "HandedBack"), (2, "Lost"), (3, "Failed"), (4, "Completed")]
        assert expected == ("Completed", ends, 0)
        writes = reference.writes.done
        assert 12 < writes < 60
        for number in range(writes):
            for after in (False, True):
                simulation = Simulation(tmp_path / f"{number}-{after}", script, writes=Writes(number, after))
                assert await through(simulation) == 1, f"write {number} was not reached"
                assert await simulation.outcome("run") == expected
                assert dict(simulation.infrastructure.created) == {"run-2": 1, "run-3": 1, "run-4": 1}

    asyncio.run(body())
