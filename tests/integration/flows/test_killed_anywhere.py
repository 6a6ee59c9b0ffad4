"""A flow of 50 tasks is killed at random points and goes on: its effects are those of the run that nobody killed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.integration.flows import order
from tests.integration.flows.conftest import ROOT, Runs

from kapstan import backend, ids
from kapstan.ids import RunId
from kapstan.results import read_flow_run
from kapstan.runs.parked import ParkedKeys

POINTS = int(os.environ.get("KAPSTAN_TEST_FLOW_POINTS", "25"))
"""For each store; all 200 in `make chaos-night`."""
MOST_ATTEMPTS = 6
Effect = list[str]


class Attempts:
    """Processes that execute one attempt each, forked from one that has imported everything."""

    def __init__(self, folder: Path) -> None:
        self.sink, self.points, self.log = folder / "effects", folder / "points", folder / "log"
        told = {"SINK": str(self.sink), "POINTS": str(self.points), "LOCKS": str(folder / "locks")}
        with self.log.open("w") as log:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.flows.order"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **told},
            )
        assert self._line() == "ready", self.log.read_text()

    def _line(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline().strip()

    def run(self, run_id: RunId, number: int, name: str, kill: int | None) -> tuple[int, list[Effect]]:
        """Its exit code, and the effects that it had."""
        assert self._server.stdin is not None
        before = len(self.effects())
        self._server.stdin.write(json.dumps([run_id, number, name, kill]) + "\n")
        self._server.stdin.flush()
        code = int(self._line())
        return code, self.effects()[before:]

    def effects(self) -> list[Effect]:
        return [json.loads(line) for line in self.sink.read_text().splitlines()] if self.sink.exists() else []

    def told(self) -> list[str]:
        """The kinds of the points that were told."""
        return self.points.read_text().splitlines() if self.points.exists() else []

    def close(self) -> None:
        self._server.kill()
        self._server.communicate()


@pytest.fixture
def attempts(runs: Runs, tmp_path: Path) -> Iterator[Attempts]:
    assert backend.current().codec  # the key of the home is made once, here
    made = Attempts(tmp_path)
    yield made
    made.close()


class Clean(NamedTuple):
    """The run that nobody killed."""

    effects: list[Effect]
    result: Any
    points: int


def result_of(run_id: RunId) -> Any:
    return read_flow_run(ids.to_uuid(run_id)).result()


def whole(attempts: Attempts) -> Clean:
    run_id = ids.new_id()
    code, effects = attempts.run(run_id, 1, "nobody", None)
    assert code == 0, attempts.log.read_text()
    return Clean(effects, result_of(run_id), len(attempts.told()))


class Killed:
    """One run that is killed at points, until it has completed."""

    def __init__(self, runs: Runs, attempts: Attempts, number: int) -> None:
        self._runs, self._attempts = runs, attempts
        self._name = f"order {number}"
        self.run_id = ids.new_id()
        self.parts: list[list[Effect]] = []
        self.kills = 0

    def go(self, kills: list[int]) -> bool:
        """Whether the first kill bit."""
        for number in range(1, MOST_ATTEMPTS):
            kill = kills[number - 1] if number <= len(kills) else 0
            code, effects = self._attempts.run(self.run_id, number, self._name, kill)
            self.parts.append(effects)
            if code == 0:
                return self.kills > 0
            if code == 137:
                self.kills += 1
                continue
            self._decide()
        pytest.fail(f"{self._name}, killed at {kills}: does not end\n{self._attempts.log.read_text()[-3000:]}")

    def _decide(self) -> None:
        """A person looks what became of a payment in doubt, and says so."""
        end = self._runs.records.attempts(self.run_id)[-1].end
        assert end is not None, self._attempts.log.read_text()[-3000:]
        assert end.outcome == "Suspended", end
        key = end.message.rpartition("kapstan task-run resolve ")[2]
        parked = ParkedKeys(backend.current())
        done = [what for _, what, known in self._attempts.effects() if known == key]
        if done:
            parked.say_applied(parked.find(key), done[0])
        else:
            parked.say_not_applied(parked.find(key))

    def wrong(self, clean: Clean) -> str:
        """What is not as in the run that nobody killed; "" for nothing."""
        if result_of(self.run_id) != clean.result:
            return f"the result {result_of(self.run_id)}"
        wanted = in_turn(clean.effects)
        at = 0
        for part in self.parts:
            mine = in_turn(part)
            again = 0 if not at else repeated(wanted, at, mine)
            if again is None or mine != wanted[at - again : at - again + len(mine)]:
                return f"after {at} effects in turn: {mine}, in place of {wanted[at:]}"
            at += len(mine) - again
        if at != len(wanted):
            return f"{wanted[at:]} did not happen"
        return self._wrong_keys() or self._wrong_wide(clean)

    def _wrong_keys(self) -> str:
        keys: dict[str, set[str]] = {}
        for kind, what, key in (effect for part in self.parts for effect in part):
            if kind in ("once", "idempotent"):
                keys.setdefault(what, set()).add(key)
        two = {what: known for what, known in keys.items() if len(known) != 1 or "" in known}
        return f"the keys {two}" if two else ""

    def _wrong_wide(self, clean: Clean) -> str:
        there = Counter(what for part in self.parts for kind, what, _ in part if kind == "wide")
        wanted = Counter(what for kind, what, _ in clean.effects if kind == "wide")
        wanted["label 5"] = 2  # of two equal pure calls side by side the second may find the first one's result, or not
        if set(there) != set(wanted) or (there - wanted).total() > self.kills * order.WIDE:
            return f"side by side {there}, in place of {wanted}"
        return ""


def in_turn(effects: list[Effect]) -> list[tuple[str, str]]:
    """What happens one after the other."""
    return [(kind, what) for kind, what, _ in effects if kind != "wide"]


def repeated(wanted: list[tuple[str, str]], at: int, mine: list[tuple[str, str]]) -> int | None:
    """How many effects an attempt repeats, which begins after ``at`` of them: of the one task that was killed and may
    be executed again. None: what it begins with is none of these."""
    for again in range(3):
        lines = wanted[at - again : at]
        one_task = len(set(lines)) <= 1 and all(kind != "once" for kind, _ in lines)
        if one_task and mine[:again] == lines and mine == wanted[at - again : at - again + len(mine)]:
            return again
    return None


@pytest.mark.timeout(120 + 5 * POINTS)
def test_effects_are_those_of_the_run_that_nobody_killed(
    runs: Runs, attempts: Attempts, request: pytest.FixtureRequest
) -> None:
    clean = whole(attempts)
    assert sum(kind == "once" for kind, _, _ in clean.effects) == 5
    seed = random.Random(9)
    points = killed = begun = 0
    wrong: list[str] = []
    while points < POINTS:
        kills = [seed.randint(1, clean.points) for _ in range(seed.choice((1, 1, 2)))]
        begun += 1
        run = Killed(runs, attempts, begun)
        bit = run.go(kills)
        points, killed = points + bit, killed + run.kills
        if found := run.wrong(clean):
            wrong.append(f"killed at {kills}: {found}")
    kinds = Counter(attempts.told()[clean.points :])
    print(f"store={request.node.callspec.id} points={points} of {clean.points}, killed={killed} wrong={len(wrong)}")
    print(f"runs={begun} {dict(kinds)}")
    assert not wrong, "\n".join(wrong)
