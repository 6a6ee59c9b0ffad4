"""A flow is killed at every append to its journal, inside a transaction, its commit and its rollback: the next attempt
calls the hooks that are left, and no task again whose outcome was stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.integration.flows.conftest import Attempt, Runs

from kapstan import ids
from kapstan.ids import RunId
from kapstan.results import read_flow_run

SAGA = Path(__file__).with_name("saga.py")
CHARGED = ["charge ada", "charge bob", "ship"]
CLEAN = {
    True: [*CHARGED, "refund bob by receipt of bob", "refund ada by receipt of ada", "report no van"],
    False: [*CHARGED, "confirm ada by receipt of ada", "confirm bob by receipt of bob", "report shipped"],
}


def start(runs: Runs, run_id: RunId, attempt: int, fails: bool) -> Attempt:
    parameters = json.dumps({"fails": fails})
    words = ["--run-id", str(ids.to_uuid(run_id)), "--attempt", str(attempt), "--parameters", parameters]
    return runs.command(["run", f"{SAGA}:saga", *words])


def effects(runs: Runs) -> list[str]:
    return [line for line in runs.effects if not line.startswith("append")]


@pytest.mark.parametrize("fails", [True, False], ids=["rollback", "commit"])
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_kill_at_any_append(runs: Runs, monkeypatch: pytest.MonkeyPatch, where: str, fails: bool) -> None:
    whole = start(runs, ids.new_id(), 1, fails)
    assert whole.ends() == 0, whole.errors
    told = runs.effects
    assert [line for line in told if not line.startswith("append")] == CLEAN[fails]
    points = sum(line.startswith("append") for line in told)
    assert points >= len(CLEAN[fails])
    for point in range(1, points + 1):
        runs.sink.write_text("")
        run_id = ids.new_id()
        monkeypatch.setenv("KILL", f"{where} {point}")
        first = start(runs, run_id, 1, fails)
        assert first.ends() != 0, f"the kill {where} append {point} did not bite"
        at = told.index(f"append {point}")
        seen = [line for line in told[:at] if not line.startswith("append")]
        assert effects(runs) == seen
        # What was done and not stored is done again: the effect before the append that did not happen.
        unstored = where == "before" and not told[at - 1].startswith("append")
        monkeypatch.delenv("KILL")
        second = start(runs, run_id, 2, fails)
        assert second.ends() == 0, second.errors
        left = CLEAN[fails][len(seen) - unstored :]
        assert effects(runs) == seen + left, f"{where} {point}"
        assert read_flow_run(ids.to_uuid(run_id)).result() == CLEAN[fails][-1].removeprefix("report ")
