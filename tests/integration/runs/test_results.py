"""``kapstan task-run result`` and ``kapstan flow-run result``: JSON, what is no JSON, what did not complete, what is
gone or was changed. Nothing is unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from kapstan import flow, ids, results, task
from kapstan.backend import Backend
from kapstan.context import TaskRun, current_task
from kapstan.ids import RunId

Command = Callable[..., Result]
CALLS: dict[str, RunId] = {}


class Deadly:
    """Says in a file that it was unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = str(file)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.file,)


@task(name="a value of the command line")
def value_of(value: Any) -> Any:
    run: TaskRun | None = current_task.get()
    assert run is not None
    CALLS["last"] = run.run_id
    return value


@flow(name="returns a value")
def returns(value: Any, fails: bool = False) -> Any:
    value_of(value)
    if fails:
        raise ValueError("no funds")
    return value


def last(backend: Backend) -> RunId:
    return backend.flow_runs.newest(1, None)[0][1]


@pytest.mark.parametrize("value", [None, {"a": [1, "ü"]}, "x" * 20_000, ["y" * 1000] * 20_000])
@pytest.mark.parametrize("serializer", [None, "json", "compressed/json"])
def test_json_is_printed(backend: Backend, kapstan: Command, value: Any, serializer: str | None) -> None:
    returns.with_options(result_serializer=serializer)(value)
    run_id = last(backend)
    for name in (str(ids.to_uuid(run_id)), backend.flow_runs.load(run_id)["name"]):  # type: ignore[index]
        shown = kapstan("flow-run", "result", name)
        assert (shown.exit_code, json.loads(shown.stdout)) == (0, value)
    shown = kapstan("task-run", "result", CALLS["last"], "--flow-run", run_id)
    assert (shown.exit_code, json.loads(shown.stdout)) == (0, value)


@pytest.mark.parametrize("size", [10, 20_000, 20_000_000])
@pytest.mark.parametrize("serializer", ["pickle", "compressed/pickle"])
def test_a_pickle_is_described_and_not_loaded(
    backend: Backend, kapstan: Command, tmp_path: Path, size: int, serializer: str
) -> None:
    returns.with_options(result_serializer=serializer)([os.urandom(size), Deadly(tmp_path / "loaded")])
    run_id = last(backend)
    for arguments in (("flow-run", "result", run_id), ("task-run", "result", CALLS["last"], "--flow-run", run_id)):
        shown = kapstan(*arguments)
        assert shown.exit_code == 0
        assert "pickle" in shown.stdout
        assert "bytes; read it in Python: kapstan.results.read(" in shown.stdout
        assert int(shown.stdout.split(" bytes")[0].split()[-1].replace(",", "")) >= size
    assert not (tmp_path / "loaded").exists()
    results.read(run_id)
    assert (tmp_path / "loaded").exists(), "the fault bites: loading it is seen"


def test_a_run_that_did_not_complete_is_an_error(backend: Backend, kapstan: Command) -> None:
    with pytest.raises(ValueError, match="no funds"):
        returns(1, fails=True)
    shown = kapstan("flow-run", "result", last(backend))
    assert shown.exit_code == 1
    assert "is Failed: Flow run encountered an exception: ValueError: no funds" in shown.stderr
    for arguments, says in (
        (("task-run", "result", CALLS["last"]), "the queue does not know task run"),
        (("task-run", "result", "nothing", "--flow-run", last(backend)), "'nothing' is no id of a task run"),
        (("task-run", "result", ids.new_id(), "--flow-run", last(backend)), "holds no end of task run"),
        (("flow-run", "result", ids.new_id()), "there is no flow run"),
    ):
        shown = kapstan(*arguments)
        assert (shown.exit_code, says in shown.stderr) == (1, True), shown.stderr


def test_a_result_that_is_gone_or_changed_is_an_error(backend: Backend, kapstan: Command) -> None:
    returns({"a": "x" * 20_000})
    run_id = last(backend)
    keys = list(backend.store.keys(f"values/{run_id}/{run_id}/"))
    for key in keys:
        stored = backend.store.get(key)
        assert stored is not None
        backend.store.put(key, stored.body[:-1])
    shown = kapstan("flow-run", "result", run_id)
    assert (shown.exit_code, "is not the one that was stored" in shown.stderr) == (1, True)
    backend.store.delete(keys)
    shown = kapstan("flow-run", "result", run_id)
    assert (shown.exit_code, "is not in the store any more" in shown.stderr) == (1, True)
