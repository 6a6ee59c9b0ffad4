"""``kapstan queue rebuild``: what to do after Redis was lost. What it means stands in ``runs.rebuild``."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import click

from kapstan import ids, settings
from kapstan.backend import Backend
from kapstan.cli.output import print_json, table
from kapstan.errors import ConfigurationError
from kapstan.runs.rebuild import Fate, Rebuild, Report

_SHOWN = [fate for fate in Fate if fate is not Fate.NONE]


@click.group()
def command() -> None:
    """Submit again what Redis has lost."""


@command.command()
@click.option("--yes", is_flag=True, help="Do it. Without, nothing is changed: it prints what would be done.")
@click.option("--namespace", "-n", default="", help="Which namespace; without it, that of KAPSTAN_NAMESPACE.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def rebuild(yes: bool, namespace: str, output: str) -> None:
    """Submit background runs again that Redis has lost, and show the ends that it has lost.

    Only runs of durability "store" can be. Those that have ended are not executed again. It may be broken off,
    repeated, and called by several at once, while clients and workers are at work. Exit code 1: some cannot be read.
    """
    current = settings.current()
    current = replace(current, namespace=namespace or current.namespace)
    if not current.s3_endpoint and not current.home_path.is_dir():
        raise ConfigurationError(f"KAPSTAN_HOME={current.home!r}: there is no such folder, so nothing is stored there")
    backend = Backend(current)
    try:
        backend.queue.ping()  # a namespace that is none, or a Redis that is away, is told before anything is looked at
        work = Rebuild(backend, dry_run=not yes)
        with _progress(work) as bar:
            work.on_run = lambda: bar.update(1)
            try:
                work.run()
            except ConfigurationError as error:
                raise ConfigurationError(
                    f"{error}. A rebuild submits runs: it needs a user of the role worker"
                ) from None
            finally:
                bar.render_finish()
                _show(work.report, not yes, output)
            if not work.report.fates:
                click.echo(f"Nothing is stored in namespace {current.namespace!r}.", err=True)
    finally:
        backend.close()
    if work.report.unreadable:
        sys.exit(1)


def _progress(work: Rebuild) -> Any:
    """A bar, on a terminal only."""
    shown = sys.stderr.isatty()
    return click.progressbar(length=work.count() if shown else 0, file=sys.stderr, hidden=not shown, label="Runs")


def _show(report: Report, dry_run: bool, output: str) -> None:
    if output == "json":
        tasks = {
            task: {fate.name.lower(): count for fate, count in fates.items()} for task, fates in report.fates.items()
        }
        print_json({"dry_run": dry_run, "tasks": tasks, "unreadable": report.unreadable})
    else:
        rows = [(task or "?", *(str(fates[fate]) for fate in _SHOWN)) for task, fates in sorted(report.fates.items())]
        table(("TASK", *(fate.value.upper() for fate in _SHOWN)), rows)
        if dry_run and any(report.total[fate] for fate in _SHOWN if fate not in (Fate.KNOWN, Fate.OVER)):
            click.echo("Nothing was changed; --yes does it.", err=True)
    for run_id, why in report.unreadable.items():
        click.echo(f"left alone: task run {ids.to_uuid(run_id)}: {why}", err=True)
    if (more := report.total[Fate.UNREADABLE] - len(report.unreadable)) > 0:
        click.echo(f"left alone: {more:,} more", err=True)
