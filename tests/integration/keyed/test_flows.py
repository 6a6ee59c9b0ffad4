"""A flow whose process is killed in an effect: it parks with the call, and goes on when somebody has decided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.integration.keyed import charging
from tests.integration.keyed.conftest import Processes

from kapstan import backend as backends
from kapstan.cli import cli
from kapstan.engine import flow_engine
from kapstan.ids import RunId, new_id
from kapstan.runs.parked import ParkedKeys
from kapstan.runs.records import Records
from kapstan.settings import Settings
from kapstan.states import State


def attempt(run_id: RunId, number: int, folder: Path, name: str) -> State:
    parameters = {"folder": str(folder), "order": "1", "name": name}
    return flow_engine.run(flow_engine.make_run(charging.shop.spec, run_id, parameters), attempt=number)


def killed(setting: Settings, processes: Processes, folder: Path, name: str) -> RunId:
    """A run whose first attempt was killed in its second charge."""
    run_id = new_id()
    asked: dict[str, Any] = {"class": name, "folder": str(folder), "order": "1", "flow": run_id}
    code, _ = processes.run(setting, environment={"DIES_IN_BODY": "2"}, **asked)
    assert code == -9
    assert [line[0] for line in charging.effects(folder)] == ["1a", "1b"]
    return run_id


@pytest.mark.parametrize("happened", [True, False])
def test_a_flow_parks_with_a_call_in_doubt_and_goes_on(
    setting: Settings, processes: Processes, tmp_path: Path, happened: bool
) -> None:
    run_id = killed(setting, processes, tmp_path, "at_most_once")
    state = attempt(run_id, 2, tmp_path, "at_most_once")
    assert (state.type.value, state.name) == ("PAUSED", "Parked")
    assert "kapstan task-run resolve " in state.message
    key = state.message.partition("kapstan task-run resolve ")[2]
    records = Records(backends.current())
    (doubt,) = [told.end.doubt for told in records.attempts(run_id) if told.end is not None]
    assert doubt is not None
    assert (doubt.key, records.in_doubt(doubt)) == (key, True)
    indexed = records.ended(run_id)
    assert indexed is not None
    assert indexed.end is not None
    assert indexed.end.doubt == doubt
    parked = ParkedKeys(backends.current())
    held = parked.view(parked.find(key))
    assert (held["task"], held["holder"]["run_id"]) == (doubt.task, doubt.run_id)
    decision = ("--committed", '["1b", "by hand"]') if happened else ("--not-applied",)
    answer = CliRunner().invoke(cli, ("task-run", "resolve", key, *decision))
    assert answer.exit_code == 0
    assert "A flow run that waits for it goes on by itself within a minute if it has a FlowRun" in answer.stdout
    assert not records.in_doubt(doubt)
    elsewhere = doubt._replace(key=f"{key}@file:///etc")
    assert records.in_doubt(elsewhere), "a place that a flow has named is not read"
    done = attempt(run_id, 3, tmp_path, "at_most_once").result()
    assert done == [["1a", ""], ["1b", "by hand" if happened else ""], ["1c", ""]]
    orders = [line[0] for line in charging.effects(tmp_path)]
    assert orders == (["1a", "1b", "1c"] if happened else ["1a", "1b", "1b", "1c"])


def test_a_flow_goes_on_by_itself_where_the_receiver_recognises_a_repetition(
    setting: Settings, processes: Processes, tmp_path: Path
) -> None:
    run_id = killed(setting, processes, tmp_path, "idempotent")
    assert attempt(run_id, 2, tmp_path, "idempotent").result() == [["1a", ""], ["1b", ""], ["1c", ""]]
    done = charging.effects(tmp_path)
    assert [(line[0], line[2]) for line in done] == [("1a", 1), ("1b", 1), ("1b", 2), ("1c", 1)]
    assert done[1][1] == done[2][1]
