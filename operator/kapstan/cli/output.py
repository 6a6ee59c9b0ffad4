"""How commands print: tables for people, never cut where they are piped; JSON for programs; times."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from kapstan.runs.results import ShownResult

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_OLD_ID = re.compile("-[-0-9A-Z_a-z]{21}")


class RunCommand(click.Command):
    """A command whose arguments are ids of runs: those that begin with ``-``, as older releases made them, are no
    options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" not in args:
            options = {name for parameter in self.params for name in (*parameter.opts, *parameter.secondary_opts)}
            old = [arg for arg in args if _OLD_ID.fullmatch(arg) and arg.partition("=")[0] not in options]
            if old:
                args = [*(arg for arg in args if arg not in old), "--", *old]
        return super().parse_args(ctx, args)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under ``head``. On a terminal the last column is what gives way; in a pipe nothing is cut."""
    from rich.console import Console
    from rich.table import Table

    terminal = sys.stdout.isatty()
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in head[:-1]:
        shown.add_column(name, no_wrap=True, overflow="fold")
    shown.add_column(head[-1], no_wrap=True, overflow="ellipsis" if terminal else "fold")
    lines = [[cell.replace("\n", " ") for cell in row] for row in rows]
    for line in lines:
        shown.add_row(*[_plain(cell) for cell in line])
    width = sum(max(len(line[column]) + 2 for line in (head, *lines)) for column in range(len(head)))
    Console(width=None if terminal else max(200, width), highlight=False).print(shown)


def _plain(cell: str) -> Any:
    from rich.text import Text

    return Text("".join(character if character.isprintable() else "?" for character in cell))


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_result(result: ShownResult, in_python: str) -> None:
    """A result as JSON; of any other what it is, and how it is read."""
    if not result.described:
        print_json(result.value)
        return
    click.echo(f"{result.described}; read it in Python: {in_python}")


def moment(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def length(seconds: float | None) -> str:
    """A length of time in two figures at most, such as ``85ms``, ``1.4s``, ``3m12s``, ``5h07m``, ``12d``."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours < 48 else f"{hours // 24}d"


class Since(click.ParamType[float]):
    """A moment: ``90s``, ``30m``, ``2h``, ``7d`` ago, or a date and time (UTC unless it says otherwise)."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        ago = _AGO.fullmatch(str(value))
        if ago is not None:
            return time.time() - float(ago[1]) * _UNITS[ago[2]]
        try:
            at = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r}: give 90s, 30m, 2h or 7d, or a date such as 2026-11-28T09:00", param, ctx)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


def more(cursor: str | None, searched_until: float | None) -> None:
    """Say on standard error, where a pipe does not read it, that there is more."""
    if cursor is not None and searched_until is not None:
        click.echo(f"Searched back to {moment(searched_until)}; go on with --cursor={cursor}", err=True)
    elif cursor is not None:
        click.echo(f"There may be more: --cursor={cursor}", err=True)
