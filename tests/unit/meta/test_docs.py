"""Documentation that a machine can hold against the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kapstan import states
from kapstan.cli import COMMANDS
from kapstan.states import ExitCode

ROOT = Path(__file__).parents[3]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def table(heading: str) -> dict[str, str]:
    """First column to second column of the table under a heading of docs/states.md."""
    text = (ROOT / "docs" / "states.md").read_text()
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| `?([^|`]+?)`? \| (.+?) \|", section, re.MULTILINE)
    return {name: meaning for name, meaning in rows if set(name) != {"-"} and name not in ("phase", "code", "category")}


def test_phases_are_those_of_the_code() -> None:
    assert table("Phases of a FlowRun") == states.PHASES


def test_diagnoses_are_those_of_the_code() -> None:
    assert table("Diagnoses") == states.DIAGNOSES


def test_exit_codes_are_those_of_the_code() -> None:
    assert {int(code) for code in table("Exit codes of `kapstan run`")} == {code.value for code in ExitCode}


def conditions_in_the_code() -> set[tuple[str, str]]:
    """(type, reason) wherever a reconciler sets a condition with words that stand there."""
    found = set()
    for path in (ROOT / "operator" / "kapstan" / "reconcile").rglob("*.py"):
        for type_, reason in re.findall(r'conditions\.set\(\s*"(\w+)",\s*[^,]+,\s*"(\w+)"', path.read_text()):
            found.add((type_, reason))
    return found


def test_conditions_that_the_code_sets_are_documented() -> None:
    text = (ROOT / "docs" / "states.md").read_text()
    assert conditions_in_the_code(), "the pattern found nothing"
    assert {(t, r) for t, r in conditions_in_the_code() if f"`{t}`" not in text or f"`{r}`" not in text} == set()


def test_the_files_of_the_two_lines_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    names = re.findall(r"`([a-z_/]+\.(?:py|lua))`", text)
    assert len(names) > 30
    assert [name for name in names if not (ROOT / "operator" / "kapstan" / name).exists()] == []


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_between_pages_hold(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_command_of_the_cli_can_be_loaded_and_has_help() -> None:
    import importlib

    for name in COMMANDS:
        command = importlib.import_module(f"kapstan.cli.{name.replace('-', '_')}").command
        assert command.help, name


def test_the_reference_of_settings_is_what_the_code_says() -> None:
    """Names, defaults, aliases and options; the words may be newer in the code for a while."""
    from kapstan.cli.config import rendered

    def facts(text: str) -> list[str]:
        return [line.rpartition(" | ")[0] for line in text.splitlines() if line.startswith("| `")]

    written = (ROOT / "docs" / "settings.md").read_text()
    assert facts(written) == facts(rendered()), "run: kapstan config reference > docs/settings.md"


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text()
    assert [path.name for path in sorted(folder.glob("0*.md")) if f"({path.name})" not in index] == []
