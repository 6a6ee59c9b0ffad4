"""Random walks of the model, for what is compared with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from random import Random

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.model.design import Design, World
from tests.model.state import Scenario
from tests.model.world_steps import successors

STEPS = 50
Walk = Callable[[World, Random, Counter[str]], None]


def scenario(effect: str) -> Scenario:
    return Scenario(
        effect,
        2,
        1,
        9,
        crashes=2,
        rollbacks=2,
        losses=4,
        raises=1,
        breaks=1,
        answers=1,
        sweeps=1,
        ages=1,
        reruns=1,
        undoes=2,
        cancels=2,
    )


def steps_of(world: World, random: Random, counts: Counter[str]) -> Iterator[tuple[str, int, bytes, bytes]]:
    """The steps of one walk, at most 50: name, process, state before and after. ``counts``: how often each was taken;
    half of the time the rarest is."""
    row = world.scenario.initial()
    taken: list[str] = []
    for _ in range(STEPS):
        steps = [step for step in successors(world, row) if step[2] != row or step[0] == "guard"]
        if not steps:
            return
        rarest = min(counts[name] for name, _, _ in steps)
        if random.random() < 0.5:
            steps = [step for step in steps if counts[step[0]] == rarest]
        name, at, after = random.choice(steps)
        counts[name] += 1
        taken.append(name)
        try:
            yield name, at, row, after
        except GeneratorExit:
            print(f"the walk ended after {taken}")
            raise
        row = after


def many(walk: Walk, walks: int) -> Counter[str]:
    """So many walks of all classes; how often each step was taken."""
    counts = Counter[str]()

    @settings(
        max_examples=walks,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # a difference is told with its steps; to shrink it would take minutes
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from("pait"), st.integers(0, 2**32))
    def walking(effect: str, seed: int) -> None:
        walk(World(Design(), scenario(effect)), Random(seed), counts)

    walking()
    return counts
