"""Every state that can be reached, breadth first: so the first violation that is met has the shortest way to it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from tests.model.design import NAMES, World
from tests.model.state import BROKEN, ID, SLOTS
from tests.model.world_steps import UNCERTAIN, ended, successors


@dataclass(frozen=True, slots=True)
class Found:
    """What a check found. ``violated``: the name of the invariant, "" for none; ``steps``: how it comes to that;
    ``names``: of all steps that were taken."""

    states: int
    violated: str = ""
    steps: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()


def explore(world: World) -> Found:
    """Check every invariant but I14 in every reachable state; I14 as far as there is always a step to take."""
    first = world.scenario.initial()
    parents: dict[bytes, bytes] = {first: b""}
    layer = [first]
    names: set[str] = set()
    while layer:
        following: list[bytes] = []
        for row in layer:
            stuck = True
            for name, _, after in successors(world, row):
                names.add(name)
                if after not in parents:
                    parents[after] = row
                    if after[BROKEN]:
                        return Found(len(parents), NAMES[after[BROKEN]], _way(world, parents, after))
                    following.append(after)
                if stuck and after != row and name not in UNCERTAIN:
                    stuck = False
            if stuck and not ended(world, row):
                return Found(len(parents), "I14", _way(world, parents, row))
        layer = following
    return Found(len(parents), names=frozenset(names))


def trapped(world: World) -> Found:
    """I14 in full: whether from every state ordinary steps alone can lead to an end."""
    first = world.scenario.initial()
    numbers = {first: 0}
    rows = [first]
    parents = array("l", [0])
    sources, targets = array("l"), array("l")
    ends: list[int] = []
    for number, row in enumerate(rows):  # grows while it is read
        if ended(world, row):
            ends.append(number)
        for name, _, after in successors(world, row):
            if after not in numbers:
                numbers[after] = len(rows)
                rows.append(after)
                parents.append(number)
            if name not in UNCERTAIN:
                sources.append(number)
                targets.append(numbers[after])
    reached = _backwards(len(rows), ends, sources, targets)
    for number, row in enumerate(rows):
        if not reached[number]:
            return Found(
                len(rows), "I14", _way(world, {r: rows[parents[n]] if n else b"" for r, n in numbers.items()}, row)
            )
    return Found(len(rows))


def _backwards(count: int, ends: list[int], sources: array[int], targets: array[int]) -> bytearray:
    """Which states have a way to one of ``ends``."""
    before: list[list[int]] = [[] for _ in range(count)]
    for source, target in zip(sources, targets, strict=True):
        before[target].append(source)
    reached = bytearray(count)
    for number in ends:
        reached[number] = 1
    queue = list(ends)
    while queue:
        for source in before[queue.pop()]:
            if not reached[source]:
                reached[source] = 1
                queue.append(source)
    return reached


def _way(world: World, parents: dict[bytes, bytes], row: bytes) -> tuple[str, ...]:
    """The steps from the beginning to ``row``, each with its process."""
    steps: list[str] = []
    while before := parents[row]:
        name, at = next((name, at) for name, at, after in successors(world, before) if after == row)
        steps.append(f"{name} ({_who(world, before, at)})" if at >= SLOTS else name)
        row = before
    return tuple(reversed(steps))


def _who(world: World, row: bytes, at: int) -> str:
    return f"{'worker' if at < world.callers_at else 'caller'} {row[at + ID]}"
