"""docs/architecture.md against the code: files, functions, classes and layers that it names."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[3]
CODE = ROOT / "operator" / "kapstan"
LOST = "LOST"  # the answer of a script
PAGE = (ROOT / "docs" / "architecture.md").read_text()
FILE = re.compile(r"`([a-z_/]+\.(?:py|lua))`")
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
NAME = re.compile(r"`([A-Za-z_]\w*(?:\.\w+)?)`")


@cache
def functions(path: Path) -> frozenset[str]:
    return frozenset(node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, FUNCTION))


def defined(body: list[ast.stmt]) -> Iterator[str]:
    """Functions and attributes that the body of a class defines."""
    for node in body:
        if isinstance(node, FUNCTION):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


@cache
def classes() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in CODE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, set()).update(defined(node.body))
    return found


def is_there(name: str, files: list[str]) -> bool:
    """Whether a class, ``Class.member``, or a function of one of ``files`` has this name; a row without a Python file
    has no functions."""
    owner, _, member = name.partition(".")
    if owner[0].isupper():
        return owner in classes() and (not member or member in classes()[owner])
    sources = [CODE / file for file in files if file.endswith(".py")]
    return not sources or any(name in functions(source) for source in sources)


def test_the_files_exist() -> None:
    names = FILE.findall(PAGE)
    assert len(names) > 30
    assert [name for name in names if not (CODE / name).exists()] == []


def test_the_folders_exist() -> None:
    names = re.findall(r"`([\w/]+/)`", PAGE) + re.findall(r"`(tests/[\w/]+|engine/\w+)`", PAGE)
    assert len(names) > 3
    assert [name for name in names if not ((CODE / name).is_dir() or (ROOT / name).is_dir())] == []


def test_the_functions_and_classes_of_each_row_exist() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    named = [(name, FILE.findall(row)) for row in rows for name in NAME.findall(row)]
    checked = [(name, files) for name, files in named if name != LOST and not name.endswith(".py")]
    assert len(checked) > 8
    assert [name for name, files in checked if not is_there(name, files)] == []


def test_the_classes_of_the_text_exist() -> None:
    text = "\n".join(line for line in PAGE.splitlines() if not line.startswith("|"))
    names = {name for name in NAME.findall(text) if name[0].isupper()}
    assert len(names) > 5
    assert [name for name in sorted(names) if not is_there(name, [])] == []


def test_the_layers_are_those_that_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["name"] == "layers")
    section = PAGE.split("## Layers\n", 1)[1].split("\n## ", 1)[0]
    written = [re.findall(r"`(\w+)`", line) for line in re.findall(r"^\d+\. (.*)", section, re.MULTILINE)]
    for layer, names in zip(layers, written, strict=True):
        checked = set(re.split(r" [:|] ", layer))
        assert checked == {name for name in names if name.islower()} - {"server"}
