"""``result_storage``, ``result_storage_key``, ``result_serializer``: their checks, and what they do to results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kapstan import Flow, Task, flow, results, task
from kapstan import backend as backends
from kapstan.codec import describe
from kapstan.errors import ConfigurationError, MissingResult, SerializationError, Unreadable
from kapstan.journal import read_journal
from kapstan.results import ResultStore
from kapstan.states import EffectClass

STORED: dict[str, bytes] = {}


@pytest.fixture(autouse=True)
def _nothing_stored() -> None:
    STORED.clear()


class Memory:
    """A block-like object; its results are read by whoever has one that is equal."""

    def __init__(self, name: str) -> None:
        self.name = name

    def read_path(self, path: str) -> bytes:
        return STORED[f"{self.name}/{path}"]

    async def write_path(self, path: str, content: bytes) -> None:
        STORED[f"{self.name}/{path}"] = content


def report(day: str, *, rows: int = 1) -> list[str]:
    return [day] * rows


def objects_in(folder: Path) -> list[str]:
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in files if not name.startswith(".kapstan/"))


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("result_storage", "", "give a folder"),
        ("result_storage", "gs://bucket/x", "give a folder, s3://bucket/prefix, or an object with read_path"),
        ("result_storage", 5, "give a folder, s3://bucket/prefix, or an object with read_path"),
        ("result_storage", Memory, "give a folder, s3://bucket/prefix, or an object with read_path"),
        ("result_storage", "s3://B_d/x", "'B_d' is no name of a bucket"),
        ("result_storage", "s3://", "is no name of a bucket"),
        ("result_storage", "s3://bucket/../x", "is no key of the store"),
        ("result_serializer", "jsn", "no serializer 'jsn'; known here: arrow, .*compressed/json, compressed/pickle, "),
        ("result_serializer", 3, "give the name of a serializer"),
    ],
)
@pytest.mark.parametrize("kind", [Task, Flow])
def test_a_wrong_option_is_refused_where_it_is_given(kind: Any, option: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{option}=.*{says}"):
        kind(report, **{option: value})


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("", "give a template"),
        (7, "give a template"),
        ("a-{", "is no template"),
        ("{}", r"\{\} is none of"),
        ("{0}", r"\{0\} is none of"),
        ("{day}", r"\{day\} is none of \{parameters...\}, \{flow_run...\}"),
        ("{parameters[dya]}", "the task has no parameter 'dya'; it has day, rows"),
    ],
)
def test_a_wrong_template_is_refused_where_it_is_given(template: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=f"result_storage_key=.*{says}"):
        Task(report, result_storage_key=template)


class Incomparable(Memory):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise ArithmeticError("not to be compared")


def test_a_storage_that_cannot_be_compared_is_taken() -> None:
    place = Incomparable("sour")
    called = Task(report, name="into it", result_storage=place, result_storage_key="may")

    @flow(result_storage=place)
    def reports() -> list[str]:
        return called("may")

    assert reports() == ["may"] == ResultStore(result_storage=place).read("may").result


def test_a_relative_folder_is_where_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    named = Task(report, result_storage="out/put")
    monkeypatch.chdir("/")
    assert named.result_storage == f"file://{tmp_path}/out/put"


def test_results_go_to_the_storage_whatever_their_size(tmp_path: Path) -> None:
    @task(name="stored small", result_storage=tmp_path / "small")
    def small() -> int:
        return 7

    @task(name="stored in the block", result_storage=Memory("a"))
    async def block() -> set[int]:
        return {1}

    @task(name="stored as the flow says")
    def inherits() -> int:
        return 9

    @flow(name="stores", result_storage=tmp_path / "flows", result_serializer="compressed/json")
    async def stores() -> list[Any]:
        return [small(), len(await block.with_options(result_serializer="pickle")()), inherits()]

    import asyncio

    assert asyncio.run(stores()) == [7, 1, 9]
    assert len(objects_in(tmp_path / "small")) == 1
    assert len(objects_in(tmp_path / "flows")) == 2  # of the task that says nothing, and the flow's own
    assert [key.partition("/")[0] for key in STORED] == ["a"]
    backend = backends.current()
    ((_, run_id, _),) = backend.flow_runs.newest(10, None)
    history = read_journal(backend.store, backend.codec, run_id)
    for key, outcome in history.outcomes.items():
        assert outcome.value is not None
        assert describe(outcome.value).startswith("a reference")
        assert results.read(key, flow_run_id=run_id) in (7, {1}, 9)
    assert results.read(run_id) == [7, 1, 9]


def test_a_value_in_a_block_that_is_not_here_says_so() -> None:
    with pytest.raises(Unreadable, match="import the module with the task or flow that names it"):
        backends.current().objects("block:shop:Bucket#0123")


def test_a_storage_key_names_the_result_for_other_readers(tmp_path: Path) -> None:
    @task(
        name="keyed report",
        result_storage=tmp_path,
        result_storage_key="reports/{parameters[day]}/{flow_run.flow_name}.json",
    )
    def keyed(day: str, rows: int = 1) -> list[str]:
        return [day] * rows

    @flow(name="months")
    def months() -> int:
        return len(keyed("may 1")) + len(keyed("may 2", rows=3))

    assert months() == 4
    store = ResultStore(result_storage=tmp_path)
    assert store.read("reports/may 1/months.json").result == ["may 1"]
    assert store.read("reports/may 2/months.json").result == ["may 2"] * 3
    assert not store.exists("reports/may 3/months.json")


def test_a_storage_key_counts_outside_of_a_flow(tmp_path: Path) -> None:
    task(report, name="report alone", result_storage=tmp_path, result_storage_key="alone/{parameters[day]}")("may")
    assert ResultStore(result_storage=tmp_path).read("alone/may").result == ["may"]


@pytest.mark.parametrize("template", ["{parameters[day]}", "x/{parameters[day]}/y", "{parameters[day].nothing}"])
@pytest.mark.parametrize("day", ["", "..", "/etc/passwd"])
def test_without_a_key_the_task_does_not_run(tmp_path: Path, template: str, day: str) -> None:
    ran: list[str] = []

    def body(day: str) -> None:
        ran.append(day)

    @flow(name="tries")
    def tries() -> None:
        Task(body, name="keyed body", result_storage=tmp_path / "out", result_storage_key=template)(day)

    if template.startswith("x/") and day == "/etc/passwd":
        day = "a//b"
    with pytest.raises(ConfigurationError, match=r"of a result cannot be|gives no key for this run"):
        tries()
    assert ran == []
    assert not (tmp_path / "out").exists() or objects_in(tmp_path / "out") == []


def test_a_chosen_serializer_is_held(tmp_path: Path) -> None:
    ran: list[int] = []

    @task(name="json only", result_serializer="json")
    def tuples() -> tuple[int, ...]:
        ran.append(1)
        return (1, 2)

    @flow(name="wants json")
    def wants() -> int:
        return len(tuples())

    assert wants() == 2  # pure: it goes on, and a resume would run it again
    backend = backends.current()
    ((_, run_id, _),) = backend.flow_runs.newest(10, None)
    (outcome,) = read_journal(backend.store, backend.codec, run_id).outcomes.values()
    assert (outcome.state, outcome.value) == ("COMPLETED", None)
    with pytest.raises(MissingResult):
        results.read(outcome.key, flow_run_id=run_id)


@pytest.mark.parametrize("effect", [EffectClass.AT_MOST_ONCE, EffectClass.IDEMPOTENT, EffectClass.TRANSACTIONAL])
def test_a_result_that_cannot_be_kept_fails_a_run_with_an_effect(effect: EffectClass) -> None:
    """At its first run, not when the flow is resumed and could not go on."""
    import threading
    from dataclasses import replace

    spent: list[int] = []

    @task(name="returns a lock")
    def pay() -> Any:
        spent.append(1)
        return threading.Lock()

    pay.spec = replace(pay.spec, effect=effect)

    @flow(name="pays with a lock")
    def pays() -> Any:
        return pay()

    with pytest.raises(SerializationError, match=r"the result of returns a lock \(_thread.lock\) cannot be serialised"):
        pays()
    assert spent == [1]
    backend = backends.current()
    ((_, run_id, _),) = backend.flow_runs.newest(10, None)
    (outcome,) = read_journal(backend.store, backend.codec, run_id).outcomes.values()
    assert outcome.state == "FAILED"
    assert "its code has run, but its result cannot be kept" in outcome.message
