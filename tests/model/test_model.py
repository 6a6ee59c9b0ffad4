"""The protocol of docs/protocol.md, checked state by state: all that a few processes, crashes, pauses, lost replies and
restarts of Redis can come to, for each effect class. And designs that are wrong in one place: each must be caught."""

from __future__ import annotations

import sys
import time

import pytest
from tests.model.design import INVARIANTS, Design, World
from tests.model.explore import Found, explore, trapped
from tests.model.mutants import LIMITS, MUTANTS, Mutant
from tests.model.state import PARKED, Scenario
from tests.model.transitions import ROWS, table
from tests.model.world_steps import UNCERTAIN

SHIPPED = (
    Scenario("p", 2, 0, claims=2, raises=1, sweeps=1, ages=1),
    Scenario("p", 1, 2, claims=2, rollbacks=0, sweeps=1, ages=1),
    Scenario("a", 2, 0, claims=3, answers=1, sweeps=1),
    Scenario("a", 1, 2, claims=2, rollbacks=0, raises=1, answers=1),
    Scenario("a", 1, 1, claims=2, raises=1, breaks=1, answers=1, sweeps=1),
    Scenario("a", 1, 1, claims=3, crashes=0, losses=0, raises=2, reruns=1),
    Scenario("a", 0, 3, rollbacks=0, losses=0, raises=2, breaks=1, answers=1, sweeps=1, ages=1),
    Scenario("a", 0, 2, rollbacks=0, raises=1, breaks=1, answers=2, sweeps=1, ages=1, other_inputs=True),
    Scenario("a", 0, 3, crashes=0, rollbacks=0, losses=0, raises=2, breaks=1, other_inputs=True),
    Scenario("a", 0, 3, rollbacks=0, losses=0, ages=1, undoes=2),
    Scenario("p", 1, 2, claims=2, crashes=0, rollbacks=0, losses=0, undoes=1),
    Scenario("t", 1, 1, claims=2, rollbacks=0, losses=0, undoes=1),
    Scenario("a", 3, 0, claims=3, crashes=0, losses=0),
    Scenario("a", 2, 0, claims=3, rollbacks=0, losses=0, breaks=1, answers=1, cancels=1),
    Scenario("a", 2, 1, claims=2, crashes=1, rollbacks=0, losses=0, raises=1, cancels=1),
    Scenario("a", 1, 1, claims=3, crashes=1, rollbacks=0, losses=0, raises=1, reruns=1, cancels=1),
    Scenario("a", 1, 0, claims=3, rollbacks=0, answers=1, cancels=2, sweeps=1),
    Scenario("i", 2, 0, claims=2, crashes=2, sweeps=1),
    Scenario("i", 0, 3, rollbacks=0, raises=1, breaks=1, sweeps=1),
    Scenario("t", 2, 0, claims=2, answers=1, sweeps=1, ages=1),
)
GOES_ON = (
    Scenario("p", 2, 0, claims=2, raises=1),
    Scenario("a", 1, 1, claims=2, raises=1, breaks=1, answers=1),
    Scenario("a", 2, 0, claims=2, rollbacks=0, cancels=1),
    Scenario("i", 1, 1, claims=2, breaks=1),
    Scenario("t", 2, 0, claims=2),
)
UNREACHED = {
    (PARKED, "commit"): "late truth: only after somebody was wrongly thought dead",
}
"""Rows of the register's table that no scenario needs, and why they are there."""
LEAST = 3_000_000


def tell(capsys: pytest.CaptureFixture[str], *lines: str) -> None:
    with capsys.disabled():
        print("\n" + "\n".join(f"model: {line}" for line in lines), file=sys.stderr)


def check(mutant: Mutant) -> Found:
    """By the shortest way; in full where only that a run goes on is broken."""
    found = explore(World(mutant.design, mutant.scenario))
    if not found.violated:
        found = trapped(World(mutant.design, mutant.scenario, endless=True))
    return found


@pytest.mark.timeout(900)
def test_the_shipped_design_holds_and_every_mutant_is_caught(capsys: pytest.CaptureFixture[str]) -> None:
    states, lines, taken, used = 0, list[str](), set[str](), set[tuple[int, str]]()
    for scenario in SHIPPED:
        began = time.perf_counter()
        world = World(Design(), scenario, table(scenario.effect))
        found = explore(world)
        assert not found.violated, f"{scenario}: {found.violated} ({INVARIANTS.get(found.violated)}): {found.steps}"
        states += found.states
        taken |= found.names
        used |= world.used
        who = f"{scenario.workers} workers, {scenario.callers} callers"
        lines.append(f"class {scenario.effect}, {who}: states={found.states} {time.perf_counter() - began:.0f} s")
    caught = 0
    for mutant in MUTANTS:
        found = check(mutant)
        lines.append(f"{mutant.name}: {found.violated or 'NOT CAUGHT'} in {len(found.steps)} steps")
        caught += found.violated == mutant.caught_by
    tell(capsys, *lines, f"states={states} violations=0 mutants={caught}/{len(MUTANTS)}")
    assert states >= LEAST
    assert caught == len(MUTANTS)
    assert taken >= UNCERTAIN, "every fault happens"
    assert set(ROWS) - used == set(UNREACHED)


def test_every_invariant_catches_a_mutant() -> None:
    assert {mutant.caught_by for mutant in (*MUTANTS, *LIMITS)} == set(INVARIANTS)


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.caught_by)
def test_what_the_docs_name_as_a_limit_is_one(limit: Mutant) -> None:
    """Also so that whoever mends it notices."""
    assert check(limit).violated == limit.caught_by


@pytest.mark.timeout(300)
@pytest.mark.parametrize("scenario", GOES_ON, ids=lambda scenario: scenario.effect + scenario.cancels * "-cancelled")
def test_from_everywhere_ordinary_steps_lead_to_an_end(scenario: Scenario) -> None:
    found = trapped(World(Design(), scenario, endless=True))
    assert not found.violated, found.steps


def test_late_truth_comes_only_after_a_wrong_note_of_a_death() -> None:
    """The row is there for that case, and keeps the record right."""
    scenario = Scenario("a", 2, 0, rollbacks=0)
    world = World(Design(), scenario, table("a"))
    assert not explore(world).violated
    assert (PARKED, "commit") not in world.used
    wrong = World(Design(confirmed_death=False, alarms=False), scenario, table("a"))
    assert not explore(wrong).violated
    assert (PARKED, "commit") in wrong.used
