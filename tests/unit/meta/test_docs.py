"""Documentation that a machine can hold against the code."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from kapstan import states
from kapstan.cli import COMMANDS
from kapstan.reconcile.kinds.flow_run.launching import BLOCKERS
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
    for path in (ROOT / "operator" / "kapstan" / "reconcile" / "kinds" / "flow_run").glob("*.py"):
        told = re.findall(r'reason="(\w+)"|reason = "(\w+)" if|else "(\w+)"\n', path.read_text())
        found |= {("Progressing", reason) for reasons in told for reason in reasons if reason}
    return found | {("Degraded", reason) for reason in BLOCKERS}


def test_conditions_that_the_code_sets_are_documented() -> None:
    text = (ROOT / "docs" / "states.md").read_text()
    assert conditions_in_the_code(), "the pattern found nothing"
    assert {(t, r) for t, r in conditions_in_the_code() if f"`{t}`" not in text or f"`{r}`" not in text} == set()


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_between_pages_hold(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_command_of_the_cli_can_be_loaded_and_has_help() -> None:
    import importlib

    for name in COMMANDS:
        command = importlib.import_module(f"kapstan.cli.{name.replace('-', '_')}").command
        assert command.help, name


def test_the_reference_of_settings_is_what_the_code_prints() -> None:
    from kapstan.cli.config import rendered

    written = (ROOT / "docs" / "settings.md").read_text()
    assert written == rendered(), "run: kapstan config reference > docs/settings.md"


def test_each_decision_has_a_title_with_its_number_and_its_line_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    rows = re.findall(r"^\| \[(\d{4})\]\((\S+)\) \| (.+) \|$", (folder / "README.md").read_text(), re.MULTILINE)
    titles = {path.name: path.read_text().splitlines()[0] for path in sorted(folder.glob("0*.md"))}
    assert [(f"# {number}: {title}", name) for number, name, title in rows] == [(t, n) for n, t in titles.items()]
    assert all(name.startswith(title[2:6] + "-") for name, title in titles.items())


def test_contributing_names_places_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text.split("| I want to add | touch |", 1)[1].split("\n\n", 1)[0]
    names = [name.partition("<")[0] for name in re.findall(r"`([\w<>/.-]+(?:/|\.(?:py|toml|md)))`", table)]
    assert len(names) > 10
    places = (ROOT / "operator" / "kapstan", ROOT)
    assert [name for name in names if not any((place / name).exists() for place in places)] == []


def test_the_hooks_of_pre_commit_are_programs_of_the_environment() -> None:
    (hooks,) = (repo["hooks"] for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"])
    programs = [Path(hook["entry"].split()[0]) for hook in hooks]
    assert {program.parent for program in programs} == {Path(".venv/bin")}
    assert [program.name for program in programs if not (Path(sys.executable).parent / program.name).exists()] == []


def test_the_table_of_values_names_every_value_of_the_chart() -> None:
    values = yaml.safe_load((ROOT / "charts" / "kapstan" / "values.yaml").read_text())
    section = (ROOT / "docs" / "kubernetes.md").read_text().split("## Values\n", 1)[1].split("\n## ", 1)[0]
    rows = [re.findall(r"`([\w.]+)`", line.split("|")[1]) for line in section.splitlines() if line.startswith("| `")]
    # A row `a.b`, `c` names a.b and a.c; a row `a` names all of a.
    named = {name for row in rows for name in (*row, *(f"{row[0].partition('.')[0]}.{one}" for one in row))}
    wanted = {f"{top}.{name}" if name else top for top, below in values.items() for name in _names(below)}
    assert {name for name in wanted if not {name, name.partition(".")[0]} & named} == {"operator.serviceAccount"}


def _names(value: object) -> list[str]:
    return list(value) if isinstance(value, dict) and value else [""]
