"""``kapstan gc``: one sweep of retention, now. ``runs`` says what goes; the operator and `kapstan dev` sweep by
themselves."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from typing import Any

import click

from kapstan import ids, settings
from kapstan.backend import Backend
from kapstan.cli.output import print_json, table
from kapstan.cli.target import Target, target_options
from kapstan.errors import ConfigurationError
from kapstan.reconcile.held import held
from kapstan.runs.retention import DAY, TOLD, Ages
from kapstan.runs.sweep import Item, Report, Sweep
from kapstan.settings import Settings

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY, "w": 7 * DAY}
_AGE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])")
_PROGRESS = 100  # items between two lines of progress on a terminal
_KINDS = {
    "journal": "journals",
    "definition": "definitions",
    "value": "values",
    "parameters": "parameters",
    "grave": "graves",
    "key": "keys",
    "submissions": "submissions",
    "ended": "ends of submissions",
}


class Age(click.ParamType[float]):
    """A length of time in seconds: ``90s``, ``30m``, ``12h``, ``30d``, ``2w``."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = _AGE.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r}: give a number and a unit, such as 12h, 30d or 2w", param, ctx)
        seconds = float(found[1]) * _UNITS[found[2]]
        if seconds <= 0:
            self.fail(f"{value!r}: give more than 0; what ended just now may still be read", param, ctx)
        return seconds


@click.command()
@click.option("--older-than", type=Age(), help="Flow runs that ended so long ago. [default: KAPSTAN_RETENTION_DAYS]")
@click.option(
    "--keys-older-than",
    type=Age(),
    help="Graves of runs that went so long ago; their ids can come again. [default: KAPSTAN_KEY_RETENTION_DAYS]",
)
@click.option(
    "--results-older-than",
    type=Age(),
    help="Results of keys (caches, effects) that were written so long ago. [default: KAPSTAN_RETENTION_DAYS]",
)
@click.option("--dry-run", is_flag=True, help="Delete nothing; print all that would go.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@target_options
def command(
    older_than: float | None,
    keys_older_than: float | None,
    results_older_than: float | None,
    dry_run: bool,
    output: str,
    target: Target,
) -> None:
    """Remove flow runs that ended long ago, and values that nobody can reach.

    A run that has not ended stays, however old it is, and so does what cannot be read. What deployments made is looked
    at only where FlowRuns can be seen: give --cluster. Ages go by the store's clock. Exit code 1: something was
    refused.
    """
    current = replace(settings.current(), namespace=target.namespace_or_default)
    ages = _ages(current, older_than, keys_older_than, results_older_than)
    _check_home(current)
    knows = target.remote or not current.s3_endpoint  # a store of many machines has FlowRuns that this one cannot see
    kept = target.run(lambda cluster: held(cluster, current.namespace)) if knows else None
    backend = Backend(current)
    items: list[Item] = []
    progress = _Progress()
    on_item = progress.heard if not dry_run else items.append if output == "json" else _print
    try:
        sweep = Sweep(backend, ages, kept, dry_run=dry_run, on_item=on_item)
        try:
            sweep.run()
        finally:
            progress.end()
            _show(sweep.report, items, dry_run, output)
    finally:
        backend.close()
    if sweep.report.refusals:
        sys.exit(1)


def _ages(current: Settings, runs: float | None, keys: float | None, registers: float | None) -> Ages:
    """
    Raises:
        ConfigurationError: no age of runs is given.
    """
    found = Ages.from_settings(current)
    if runs is None and found is None:
        raise ConfigurationError(
            "give --older-than, such as 30d, or set KAPSTAN_RETENTION_DAYS: nothing goes by itself"
        )
    runs = found.runs if runs is None and found is not None else runs
    assert runs is not None
    if registers is None and found is not None:
        registers = found.registers
    return Ages(runs, keys if keys is not None else current.key_retention_days * DAY or None, registers=registers)


def _check_home(current: Settings) -> None:
    """A home that was mistyped is not made, and then found empty."""
    if not current.s3_endpoint and not current.home_path.is_dir():
        raise ConfigurationError(
            f"KAPSTAN_HOME={current.home!r}: there is no such folder, so there is nothing to remove"
        )


class _Progress:
    """A line that counts, on a terminal only."""

    def __init__(self) -> None:
        self._count = 0
        self._shown = False

    def heard(self, _: Item) -> None:
        self._count += 1
        if self._count % _PROGRESS == 0 and sys.stderr.isatty():
            self._shown = True
            click.echo(f"\r{self._count} gone", err=True, nl=False)

    def end(self) -> None:
        if self._shown:
            click.echo(err=True)


def _print(item: Item) -> None:
    name = item.name if "/" in item.name else str(ids.to_uuid(item.name))
    click.echo(f"would go: {item.kind} {name} ({item.objects} objects, {item.size} bytes)")


def _show(report: Report, items: list[Item], dry_run: bool, output: str) -> None:
    went = {
        _KINDS[kind]: {"count": report.items[kind], "objects": report.objects[kind], "bytes": report.sizes[kind]}
        for kind in _KINDS
    }
    if output == "json":
        kept = {why.name.lower(): count for why, count in report.kept.items()}
        shown: dict[str, Any] = {"dry_run": dry_run, "went": went, "kept": kept}
        if dry_run:
            shown["items"] = [item._asdict() for item in items]
        print_json({**shown, "refusals": report.refusals, "refused": report.refused})
    else:
        rows = [(name, *(str(number) for number in counts.values())) for name, counts in went.items()]
        table(("WOULD GO" if dry_run else "WENT", "COUNT", "OBJECTS", "BYTES"), rows)
    for why in TOLD:
        if report.kept[why]:
            examples = ", ".join(report.examples[why])
            more = ", ..." if report.kept[why] > len(report.examples[why]) else ""
            click.echo(f"kept {report.kept[why]}: {why} ({examples}{more})", err=True)
    for key, reason in report.refused.items():
        click.echo(f"refused: {key}: {reason}", err=True)
