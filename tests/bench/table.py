"""Prints the lines as one table, and writes them as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tests.bench.measuring import Line

WIDTH = 170


def show(lines: Sequence[Line], left_out: Sequence[tuple[str, str]], about: str) -> None:
    """The table; below it the rows that were not measured (name, reason) and what falls short."""
    console = Console(width=WIDTH) if not Console().is_terminal else Console()
    table = Table(title="Kapstan beside its yardsticks: medians of the rounds of one run", caption=about)
    for heading in ("row", "kind of run", "ours", "yardstick", "theirs", "ratio [rounds]", "goal", "verdict"):
        table.add_column(heading, justify="right" if heading in ("ours", "theirs", "goal") else "left")
    for line in lines:
        goal = "" if line.goal is None else f"{line.goal}{'' if line.goal.of == 'ratio' else f' {line.unit}'}"
        style = "green" if line.verdict == "met" else "yellow" if line.verdict else ""
        verdict = f"[{style}]{line.verdict}[/]" if style else ""
        theirs = _figure(line.theirs, line.unit) if line.theirs else ""
        table.add_row(
            line.title, line.kind, _figure(line.ours, line.unit), line.yardstick, theirs, _ratio(line), goal, verdict
        )
    console.print(table)
    for name, reason in left_out:
        console.print(f"not measured: {name}: {reason}", soft_wrap=True, markup=False)
    short = [f"{line.title} ({line.verdict})" for line in lines if line.verdict not in ("", "met")]
    console.print(f"falls short: {'; '.join(short)}" if short else "nothing falls short of its goal", markup=False)


def write(path: Path, lines: Sequence[Line], left_out: Sequence[tuple[str, str]], about: str) -> None:
    """Every figure of every round."""
    rows = [
        {
            "name": line.name,
            "title": line.title,
            "kind": line.kind,
            "unit": line.unit,
            "ours": list(line.ours),
            "yardstick": line.yardstick,
            "theirs": list(line.theirs),
            "ratio": statistics.median(line.ratios) if line.theirs else None,
            "goal": None if line.goal is None else str(line.goal),
            "verdict": line.verdict,
        }
        for line in lines
    ]
    path.write_text(json.dumps({"about": about, "rows": rows, "not_measured": dict(left_out)}, indent=1) + "\n")


def _figure(values: Sequence[float], unit: str) -> str:
    value = statistics.median(values)
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}{'' if unit == '/s' else ' '}{unit}"


def _ratio(line: Line) -> str:
    if not line.theirs:
        return ""
    ratios = line.ratios
    return f"{statistics.median(ratios):.2f}x [{min(ratios):.2f}-{max(ratios):.2f}]"
