"""What `kapstan task serve` makes of its arguments, and what it says when it can make nothing of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kapstan.errors import ConfigurationError, DuplicateTask
from kapstan.worker.entrypoints import by_identity, load

SOURCE = """
from kapstan import task
{0}
@task
def charge(): ...

@task(name="{1}")
def refund(): ...

plain = 1
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with shop_tasks.py and shop_app/tasks.py, current and importable only from there."""
    (tmp_path / "shop_app").mkdir()
    (tmp_path / "shop_tasks.py").write_text(SOURCE.format("", "refunds"))
    (tmp_path / "shop_app" / "tasks.py").write_text(
        SOURCE.format("from shop_tasks import charge as other", "app-refunds")
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("shop_"):
            del sys.modules[name]


def test_modules_and_files_give_the_same_identity(project: Path) -> None:
    assert set(load(["shop_tasks:charge"], [])) == {"shop_tasks:charge"}
    assert set(load(["shop_tasks.py:charge"], [])) == {"shop_tasks:charge"}
    assert set(load(["./shop_app/tasks.py:refund"], [])) == {"app-refunds"}
    assert set(load([str(project / "shop_app/tasks.py") + ":charge"], [])) == {"shop_app.tasks:charge"}


def test_a_module_serves_what_it_defines_not_what_it_imports(project: Path) -> None:
    assert set(load([], ["shop_app.tasks"])) == {"shop_app.tasks:charge", "app-refunds"}


def test_naming_a_task_twice_is_no_error(project: Path) -> None:
    assert set(load(["shop_tasks:charge", "shop_tasks.py:charge"], ["shop_tasks"])) == {"shop_tasks:charge", "refunds"}


def test_two_tasks_of_one_name_are(project: Path) -> None:
    tasks = load(["shop_tasks:charge", "shop_tasks:refund"], [])
    renamed = replace(tasks["refunds"], identity="shop_tasks:charge")
    with pytest.raises(DuplicateTask, match="two tasks are called 'shop_tasks:charge'"):
        by_identity([*tasks.values(), renamed])


@pytest.mark.parametrize(
    ("entrypoints", "modules", "message"),
    [
        (["shop_tasks"], [], "'shop_tasks': give module:task or file.py:task"),
        (["shop_tasks:plain"], [], "plain is no task of shop_tasks; its tasks: charge, refund"),
        (["shop_missing:charge"], [], "no module 'shop_missing'"),
        (["shop_missing.py:charge"], [], "no file 'shop_missing.py'"),
        ([], ["json"], "--module json: it has no task"),
    ],
)
def test_what_cannot_be_served(project: Path, entrypoints: list[str], modules: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(entrypoints, modules)


@pytest.mark.parametrize(
    ("file", "identity"),
    [
        ("shop.v2.py", "shop_v2:charge"),
        ("shop-jobs.py", "shop-jobs:charge"),
        ("2024 jobs/daily.py", "daily:charge"),
        ("this.py", "this:charge"),  # also a module of the standard library
    ],
)
def test_every_name_that_a_file_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, identity: str
) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("from kapstan import task\n@task\ndef charge(): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    try:
        assert set(load([f"{file}:charge"], [])) == {identity}
    finally:
        for name in set(sys.modules) - before:
            del sys.modules[name]


def test_a_file_whose_name_a_loaded_module_has_is_refused_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ConfigurationError, match=r"the name 'json' belongs to .*; rename one"):
        load(["json.py:charge"], [])
