"""Tags of runs: given to a flow, a task or a piece of code, found again by the list, kept by a resume."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.flows.conftest import Runs

from kapstan import backend, flow, runtime, tags, task
from kapstan.errors import ConfigurationError
from kapstan.runs.flow_runs import FlowRuns
from kapstan.runs.flow_view import FlowRunFilter

pytestmark = pytest.mark.parametrize("runs", ["local"], indirect=True)

SCRIPT = """
import os
from kapstan import flow, runtime, tags, task

@task(tags=["of the task"])
def look():
    print("task tags:", runtime.task_run.tags, flush=True)

@flow(tags=["nightly"])
def tagged():
    look()
    if not os.path.exists("begun"):
        open("begun", "w").close()
        os._exit(9)
    print("flow tags:", runtime.flow_run.tags, flush=True)

if __name__ == "__main__":
    with tags("by hand", "twice"), tags("inner", "twice"):
        tagged()
"""


def found(tag: str) -> list[str]:
    return [run.flow for run in FlowRuns(backend.current()).page(FlowRunFilter(tag=tag), 10).runs]


def test_a_resumed_run_keeps_the_tags_that_it_was_begun_with(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "tagging.py").write_text(SCRIPT)
    first = runs.python(["tagging.py"])
    assert first.ends() == 9
    assert "task tags: ['by hand', 'inner', 'nightly', 'of the task', 'twice']" in first.output
    assert [found(tag) for tag in ("by hand", "inner", "nightly")] == [["tagged"]] * 3
    assert [found(tag) for tag in ("of the task", "other")] == [[], []]
    (run,) = FlowRuns(backend.current()).page(FlowRunFilter(), 10).runs
    resumed = runs.command(["flow-run", "resume", run.id])
    assert resumed.ends() == 0, resumed.errors
    assert "flow tags: ['by hand', 'inner', 'nightly', 'twice']" in resumed.output
    listed = runs.command(["flow-run", "ls", "--tag", "inner", "-o", "json"])
    assert listed.ends() == 0, listed.errors
    assert run.id in listed.output


def test_a_subflow_has_the_tags_of_its_caller_and_nobody_else(runs: Runs) -> None:
    seen: list[list[str]] = []

    @task(name="tags-subtask")
    def child() -> None:
        seen.append(runtime.task_run.tags)

    @flow(name="tags-inner", tags=["inner"])
    def inner() -> None:
        child()

    @flow(name="tags-outer", tags=["outer"])
    def outer() -> None:
        inner()
        child.submit().result()

    outer()
    child()
    assert seen == [["inner", "outer"], ["outer"], []]
    assert runs.effects == []


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("single", "give a list of texts, such as \\['single'\\]"),
        (5, "give a list of texts"),
        ([5], "the tag 5 is no text"),
        ([""], "the tag '' has 0 characters; give 1 to 200"),
        (["x" * 201], "has 201 characters"),
        (["two\nlines"], "characters that no screen shows"),
        ([" a"], "spaces at an end"),
        ([f"t{number}" for number in range(51)], "51 tags; give at most 50"),
        ([["a"]], "the tag \\['a'\\] is no text"),
    ],
)
def test_tags_that_cannot_be_are_refused_with_the_reason(runs: Runs, bad: object, said: str) -> None:
    for decorate in (flow, task):
        with pytest.raises(ConfigurationError, match=said):
            decorate(lambda: None, tags=bad)  # type: ignore[call-overload]
    if isinstance(bad, list):
        with pytest.raises(ConfigurationError, match=said), tags(*bad):
            pass
    assert runs.effects == []
