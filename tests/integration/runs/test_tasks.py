"""``kapstan task ls``, ``pause`` and ``resume`` over ``runs.tasks``."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import Result

from kapstan import ids
from kapstan.backend import Backend
from kapstan.ports import Submission

Kapstan = Callable[..., Result]
TASK = "shop.tasks:charge"


def submitted(backend: Backend, task: str = TASK, queue: str = "default") -> ids.RunId:
    run_id = ids.new_id()
    backend.queue.submit(Submission(run_id, task, b"{}", "same-inputs", queue))
    return run_id


def listed(kapstan: Kapstan) -> dict[tuple[str, str], dict[str, object]]:
    return {(row["task"], row["queue"]): row for row in json.loads(kapstan("task", "ls", "-o", "json").stdout)}


def test_a_paused_task_is_shown_and_its_runs_say_why_they_wait(backend: Backend, kapstan: Kapstan) -> None:
    run_id = submitted(backend)
    session = backend.queue.open_session("shop", [TASK], 1)
    lane = backend.queue.open_lane(session.name, 0, [TASK])
    assert kapstan("task", "pause", TASK).stdout == f"Paused task {TASK} in queue default\n"
    assert lane.step([], 1).claims == []
    row = listed(kapstan)[TASK, "default"]
    assert (row["ready"], row["workers"], row["paused"]) == (1, 1, "task")
    assert "yes" in kapstan("task", "ls").stdout
    shown = json.loads(kapstan("task-run", "inspect", str(ids.to_uuid(run_id)), "-o", "json").stdout)
    assert shown["why"] == f"{TASK} is paused: `kapstan task resume {TASK}`"
    assert kapstan("task", "resume", "charge").stdout == f"Resumed task {TASK} in queue default\n"
    assert listed(kapstan)[TASK, "default"]["paused"] == ""
    assert [claim.run_id for claim in lane.step([], 1).claims] == [run_id]
    lane.close()
    session.close()


def test_a_whole_queue_is_paused(backend: Backend, kapstan: Kapstan) -> None:
    slow, fast = submitted(backend, queue="slow"), submitted(backend)
    assert kapstan("task", "pause", "--queue", "slow").stdout == "Paused queue slow\n"
    rows = listed(kapstan)
    assert (rows[TASK, "slow"]["paused"], rows[TASK, "default"]["paused"]) == ("queue", "")
    sentences = [
        json.loads(kapstan("task-run", "inspect", str(ids.to_uuid(run_id)), "-o", "json").stdout)["why"]
        for run_id in (slow, fast)
    ]
    assert sentences == [
        "queue slow is paused: `kapstan task resume --queue slow`",
        f"no worker serves {TASK}",
    ]
    refused = kapstan("task", "resume", TASK, "--queue", "slow")
    assert refused.exit_code == 1
    assert "is not paused; its queue is: `kapstan task resume --queue slow`" in refused.stderr
    assert kapstan("task", "resume", "--queue", "slow").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pause"], "nothing is named: give a task, or --queue"),
        (["pause", "nobody"], "no task 'nobody' is known in queue default"),
        (["resume", TASK], f"task {TASK} in queue default is not paused"),
        (["pause", TASK, "--queue", "a b"], "queue='a b': give 1 to 63 letters"),
        (["pause", "--queue", "a b"], "queue='a b': give 1 to 63 letters"),
    ],
)
def test_what_cannot_be_paused_is_named(kapstan: Kapstan, arguments: list[str], words: str) -> None:
    answer = kapstan("task", *arguments)
    assert answer.exit_code != 0
    assert words in answer.stderr


def test_a_pause_twice_is_said(kapstan: Kapstan) -> None:
    kapstan("task", "pause", TASK)
    assert "is paused already" in kapstan("task", "pause", TASK).stderr


def test_several_tasks_with_one_name_are_told_apart(backend: Backend, kapstan: Kapstan) -> None:
    submitted(backend, "a:send")
    submitted(backend, "b:send")
    assert "'send' is the end of several tasks: a:send, b:send" in kapstan("task", "pause", "send").stderr


def test_a_paused_queue_of_which_no_task_is_known_is_shown(backend: Backend, kapstan: Kapstan) -> None:
    kapstan("task", "pause", "--queue", "slow")
    assert listed(kapstan)["", "slow"]["paused"] == "queue"
    assert kapstan("task", "ls").stdout.split("\n")[1].split() == ["(all)", "slow", *"00000", "its", "queue"]
    submitted(backend, queue="slow")
    assert [*listed(kapstan)] == [(TASK, "slow")], "it is shown with its tasks"
    kapstan("task", "resume", "--queue", "slow")
    assert listed(kapstan)[TASK, "slow"]["paused"] == ""


def test_a_pause_of_a_task_that_nobody_knows_is_told(backend: Backend, kapstan: Kapstan) -> None:
    submitted(backend)
    assert kapstan("task", "pause", TASK).stderr == ""
    paused = kapstan("task", "pause", "shop.tasks:chrage")
    assert (paused.exit_code, paused.stdout) == (0, "Paused task shop.tasks:chrage in queue default\n")
    assert "No worker serves shop.tasks:chrage" in paused.stderr
