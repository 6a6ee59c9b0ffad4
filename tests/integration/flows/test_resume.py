"""A flow's process is broken off in the middle: the next attempt executes what is missing, and nothing else."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from tests.integration.flows.conftest import SHAPES as SCRIPT
from tests.integration.flows.conftest import Runs

from kapstan import backend, ids
from kapstan.journal import log_name
from kapstan.results import read_flow_run

SHAPES: dict[str, tuple[list[str], list[str], Any]] = {
    "loop": (["step 1"] * 3, ["step 1"] * 3, 12),
    "gather": (["astep 1"] * 3, ["late 1"] * 3, [2] * 6),
    "caught": (["step 1", "risky 2", "step 3"], ["step 4", "step 5", "step 6"], [2, "refused 2", 4, 5, 6, 7]),
    "nested": (["step 1", "step 11", "step 1"], ["step 11"], 28),
    "unstored": (["step 1", "step 2"], ["step 3"], 6),
    "submitted": (["step 1", "step 1", "step 2"], ["step 1", "step 3"], [2, 2, 3, 2, 4]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_killed_attempt_is_continued(runs: Runs, shape: str) -> None:
    before, after, result = SHAPES[shape]
    run_id = ids.new_id()
    first = runs.start(shape, run_id, 1, gate=True)
    first.reached()
    first.kill()
    assert Counter(runs.effects) == Counter(before)
    assert runs.ends(run_id) == [None]

    second = runs.start(shape, run_id, 2)
    assert second.ends() == 0, second.errors
    assert Counter(runs.effects) == Counter(before) + Counter(after)
    assert runs.ends(run_id) == [None, "Completed"]
    assert read_flow_run(ids.to_uuid(run_id)).result() == result


@pytest.mark.parametrize("shape", ["loop", "gather", "nested"])
def test_sigterm_hands_the_run_back(runs: Runs, shape: str) -> None:
    before, after, _ = SHAPES[shape]
    run_id = ids.new_id()
    first = runs.start(shape, run_id, 1, gate=True)
    first.reached()
    first.terminate()
    assert first.ends() == 75, first.errors
    assert runs.ends(run_id) == ["HandedBack"]
    ended = runs.records.ended(run_id)
    assert ended is not None
    assert ended.end is not None
    assert (ended.number, ended.end.outcome) == (1, "HandedBack")

    second = runs.start(shape, run_id, 2)
    assert second.ends() == 0, second.errors
    assert Counter(runs.effects) == Counter(before) + Counter(after)
    assert runs.ends(run_id) == ["HandedBack", "Completed"]


def test_code_that_swallows_sigterm_ends_at_its_next_task(runs: Runs) -> None:
    run_id = ids.new_id()
    first = runs.start("deaf", run_id, 1, gate=True)
    first.reached()
    first.terminate()
    assert first.ends() == 75, first.errors
    assert runs.effects == ["swallowed"]
    assert runs.ends(run_id) == ["HandedBack"]


def test_a_later_attempt_fences_a_living_one(runs: Runs) -> None:
    run_id = ids.new_id()
    first = runs.start("loop", run_id, 1, gate=True)
    first.reached()
    second = runs.start("loop", run_id, 2)
    assert second.ends() == 0, second.errors
    assert first.ends() == 75, first.errors  # its lease went to attempt 2: it records nothing more
    assert runs.effects == ["step 1"] * 6
    assert runs.ends(run_id) == [None, "Completed"]


def test_the_same_attempt_does_not_run_twice(runs: Runs) -> None:
    run_id = ids.new_id()
    first = runs.start("loop", run_id, 1, gate=True)
    first.reached()
    twin = runs.start("loop", run_id, 1)
    assert twin.ends() == 75, twin.errors
    first.kill()
    late = runs.start("loop", run_id, 1)  # the lease is free, the journal is not
    assert late.ends() == 75, late.errors
    assert runs.effects == ["step 1"] * 3
    assert runs.ends(run_id) == [None]


def test_an_ended_run_is_not_executed_again(runs: Runs) -> None:
    run_id = ids.new_id()
    assert runs.start("loop", run_id, 1).ends() == 0
    assert runs.start("loop", run_id, 2).ends() == 0
    assert runs.effects == ["step 1"] * 6
    assert runs.ends(run_id) == ["Completed"]


def test_a_failed_flow_exits_with_1_and_its_retries_are_counted(runs: Runs) -> None:
    run_id = ids.new_id()
    assert runs.start("failing", run_id, 1, parameters='{"n": "3"}').ends() == 1
    assert runs.effects == ["step 1"]  # the retry found it in the journal
    ended = runs.records.ended(run_id)
    assert ended is not None
    assert ended.end is not None
    assert ended.end.message == "Flow run encountered an exception: ValueError: no 3"
    assert runs.records.history(run_id).retries == 1


@pytest.mark.parametrize(
    ("shape", "parameters", "message"),
    [
        ("failing", '{"n": "x"}', "parameter n='x' is not int"),
        ("failing", "{}", "flow failing needs the parameter 'n'"),
        ("failing", '{"n": 1, "m": 2}', "flow failing has no parameter 'm'; it has n"),
        ("absent", "{}", "shapes; its flows: caught, deaf, failing, gather"),
    ],
)
def test_wrong_input_is_recorded_as_the_runs_failure(runs: Runs, shape: str, parameters: str, message: str) -> None:
    run_id = ids.new_id()
    assert runs.start(shape, run_id, 1, parameters=parameters).ends() == 1
    (record,) = runs.records.attempts(run_id)
    assert record.end is not None
    assert record.end.outcome == "Failed"
    assert message in record.end.message
    assert runs.effects == []


def test_a_script_killed_on_a_laptop_is_resumed_from_the_command_line(runs: Runs) -> None:
    first = runs.python([str(SCRIPT)], gate=True)
    first.reached()
    (summary,) = runs.records.recent()
    run_id = str(ids.to_uuid(summary["run_id"]))
    refused = runs.command(["flow-run", "resume", run_id])
    assert refused.ends() == 2
    assert "is at work in process" in refused.errors
    first.kill()
    resumed = runs.command(["flow-run", "resume", run_id])
    assert resumed.ends() == 0, resumed.errors
    assert runs.effects == ["step 1"] * 6
    assert runs.ends(summary["run_id"]) == [None, "Completed"]


def test_cancel_stops_the_process_and_says_so(runs: Runs) -> None:
    run_id = ids.new_id()
    first = runs.start("loop", run_id, 1, gate=True)
    first.reached()
    assert runs.command(["flow-run", "cancel", str(ids.to_uuid(run_id))]).ends() == 0
    assert first.ends() == 1, first.errors
    assert runs.ends(run_id) == ["Cancelled"]
    summary = runs.records.summary(run_id)
    assert summary is not None
    assert (summary["state"], summary["outcome"]) == ("CANCELLED", "Cancelled")
    assert read_flow_run(run_id).is_cancelled()
    again = runs.command(["flow-run", "cancel", str(ids.to_uuid(run_id))])
    assert again.ends() == 2
    assert "has ended: Cancelled" in again.errors


def test_the_command_line_shows_runs(runs: Runs) -> None:
    run_id = ids.new_id()
    assert runs.start("caught", run_id, 1).ends() == 0
    uuid = str(ids.to_uuid(run_id))
    listed = runs.command(["flow-run", "ls"])
    assert listed.ends() == 0, listed.errors
    assert uuid in listed.output
    inspected = runs.command(["flow-run", "inspect", uuid, "-o", "json"])
    assert inspected.ends() == 0, inspected.errors
    shown = json.loads(inspected.output)
    assert [attempt["end"] for attempt in shown["attempts"]] == ["Completed"]
    assert sorted(task["state"] for task in shown["task_runs"]) == ["Completed"] * 5 + ["Failed"]
    unknown = runs.command(["flow-run", "inspect", str(ids.to_uuid(ids.new_id()))])
    assert unknown.ends() == 1
    assert "there is no flow run" in unknown.errors


def test_a_journal_of_a_newer_release_is_left_to_it(runs: Runs) -> None:
    run_id = ids.new_id()
    first = runs.start("loop", run_id, 1, gate=True)
    first.reached()
    first.kill()
    log = backend.current().store.log(log_name(run_id))
    written = log.open(backend.current().codec.encode({"v": 1, "kind": "novelty"}, "journal", run_id))
    log.close()
    second = runs.start("loop", run_id, 2)
    assert second.ends() == 70
    assert "holds a record 'novelty' of format 1, which a newer release wrote" in second.errors
    assert runs.effects == ["step 1"] * 3
    assert log.read()[: len(written)] == written
    assert len(log.read()) == len(written) + 1
