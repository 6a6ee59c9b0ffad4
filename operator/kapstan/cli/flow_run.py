"""``kapstan flow-run``: look at flow runs, go on with one that was lost, stop one."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from datetime import UTC, datetime
from typing import Any, TextIO, cast

import click

from kapstan import backend as backends
from kapstan import ids
from kapstan.backend import Backend
from kapstan.cli.run import load_flow
from kapstan.engine import definition
from kapstan.errors import ConfigurationError, NotFound
from kapstan.ids import RunId
from kapstan.runs import parameters as stored_parameters
from kapstan.runs.records import Records
from kapstan.specs import FlowSpec
from kapstan.states import AttemptOutcome
from kapstan.worker import flow_process
from kapstan.worker.flow_process import Attempt


@click.group()
def command() -> None:
    """List, inspect, cancel and resume flow runs; store parameters for them."""


@command.command()
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many, newest first.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def ls(limit: int, output: str) -> None:
    """List flow runs, newest first."""
    runs = Records(backends.current()).recent(limit)
    if output == "json":
        click.echo(json.dumps([_readable(run) for run in runs], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("ID", "NAME", "FLOW", "STATE", "ATTEMPT", "STARTED", box=None, pad_edge=False)
    for run in runs:
        started = _time(run.get("started"))
        told = [str(run.get(key, "")) for key in ("name", "flow", "state_name", "attempt")]
        table.add_row(str(ids.to_uuid(run["run_id"])), *told, started)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@command.command()
@click.argument("run_id")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def inspect(run_id: str, output: str) -> None:
    """Show one flow run: its state, its attempts, the task runs that it finished."""
    backend = backends.current()
    found = _found(backend, run_id)
    history = Records(backend).history(found)
    summary = _readable(Records(backend).summary(found) or {"run_id": found})
    summary["attempts"] = [
        {
            "number": attempt.number,
            "host": attempt.host,
            "started": _time(attempt.started),
            "end": None if attempt.end is None else attempt.end.end,
            "ended": None if attempt.end is None else _time(attempt.end.at),
            "message": "" if attempt.end is None else attempt.end.message,
        }
        for attempt in history.attempts
    ]
    summary["task_runs"] = [
        {"id": str(ids.to_uuid(key)), "name": outcome.name, "task": outcome.task, "state": outcome.state_name}
        for key, outcome in history.outcomes.items()
    ]
    if output == "json":
        click.echo(json.dumps(summary, indent=2))
        return
    attempts, task_runs = summary.pop("attempts"), summary.pop("task_runs")
    for key, value in summary.items():
        if value not in ("", None):
            click.echo(f"{key}: {value}")
    for title, items in (("attempts", attempts), ("task runs", task_runs)):
        click.echo(f"{title}:")
        for item in items:
            click.echo("  " + ", ".join(f"{key}={value}" for key, value in item.items() if value not in ("", None)))


@command.command()
@click.argument("run_id")
@click.option("--force", is_flag=True, help="Also if it seems to run still: that process loses the run.")
def resume(run_id: str, force: bool) -> None:
    """Go on, on this machine, with a run that was lost, handed back or failed.

    What it finished is not run again; after a failure, what failed is. Runs of a deployment are resumed by the
    operator.
    """
    backend = backends.current()
    found = _found(backend, run_id)
    records = Records(backend)
    summary = records.summary(found) or {}
    if summary.get("deployment"):
        raise ConfigurationError(
            f"run {run_id} belongs to deployment {summary['deployment']!r}: the operator resumes it"
        )
    if summary.get("parent"):
        raise ConfigurationError(f"run {run_id} is a subflow: resume {ids.to_uuid(summary['parent'])}, which called it")
    if not force and _lives(summary):
        raise ConfigurationError(f"run {run_id} is at work in process {summary['pid']} here; --force takes it over")
    last = records.history(found).last
    if last is not None and last.end is not None and last.end.end is AttemptOutcome.COMPLETED:
        click.echo(f"Flow run {run_id} is Completed already")
        return
    defined = definition.read(backend, found)
    if defined is None or not defined.entrypoint or defined.parameters is None:
        raise ConfigurationError(
            f"run {run_id} cannot be executed by another process: its flow is a local function, or its parameters "
            "could not be serialised"
        )
    if os.path.isdir(defined.folder):
        os.chdir(defined.folder)
    parameters = defined.parameters

    def load() -> tuple[FlowSpec, dict[str, Any]]:
        return load_flow(defined.entrypoint), parameters

    number = 1 if last is None else last.number + 1
    again = last is not None and last.end is not None and last.end.end.ends_run
    backends.use(backend.settings)  # connections do not survive the fork that follows
    flow_process.execute(Attempt(found, number, defined.entrypoint, name=defined.name, again=again), load)


@command.command()
@click.argument("run_id")
def cancel(run_id: str) -> None:
    """Stop a run: SIGTERM to its process if that is on this machine, and the state Cancelled.

    A run of a deployment is cancelled by its custom resource: kubectl patch flowrun NAME --type merge -p
    '{"spec":{"cancel":true}}'.
    """
    backend = backends.current()
    found = _found(backend, run_id)
    records = Records(backend)
    summary = records.summary(found) or {}
    if summary.get("state") in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
        raise ConfigurationError(f"run {run_id} has ended: {summary['state_name']}")
    if summary.get("deployment"):
        raise ConfigurationError(f"run {run_id} belongs to deployment {summary['deployment']!r}: cancel its FlowRun")
    if _lives(summary):
        os.kill(summary["pid"], signal.SIGTERM)
        deadline = time.monotonic() + 30.0
        while _lives(summary) and time.monotonic() < deadline:
            time.sleep(0.05)
    elif summary.get("host") != os.uname().nodename and summary.get("state") == "RUNNING":
        raise ConfigurationError(f"run {run_id} is at work on {summary.get('host')}: cancel it there")
    records.declare(found, "Cancelled", "cancelled by kapstan flow-run cancel")
    click.echo(f"Cancelled flow run {run_id}")


@command.command(name="store-parameters")
@click.argument("file", type=click.File(encoding="utf-8"))
def store_parameters(file: TextIO) -> None:
    """Store the JSON object in FILE (- for standard input) and print its key, for spec.parametersRef.key of a FlowRun.

    For parameters that are too large for the FlowRun itself. Needs the settings of the run's namespace: on a cluster
    those of its Secret kapstan-workload, and KAPSTAN_NAMESPACE.
    """
    try:
        parameters: Any = json.load(file)
    except ValueError as error:
        raise ConfigurationError(f"{file.name} is not JSON: {error}") from None
    if not isinstance(parameters, dict):
        raise ConfigurationError(f'{file.name}: give a JSON object, such as {{"x": 1}}')
    click.echo(stored_parameters.write(backends.current(), cast("dict[str, Any]", parameters)))


def _found(backend: Backend, text: str) -> RunId:
    try:
        run_id = ids.parse(text)
    except ValueError:
        named = [run["run_id"] for run in Records(backend).recent(1000) if run.get("name") == text]
        if len(named) == 1:
            return named[0]
        raise NotFound(f"no flow run has the id or the name {text!r}; `kapstan flow-run ls` lists them") from None
    if Records(backend).summary(run_id) is None and not Records(backend).attempts(run_id):
        raise NotFound(f"there is no flow run {text}")
    return run_id


def _lives(summary: dict[str, Any]) -> bool:
    """Whether the process that the index names is alive on this machine."""
    if summary.get("state") != "RUNNING" or summary.get("host") != os.uname().nodename:
        return False
    try:
        os.kill(summary["pid"], 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _readable(summary: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {**summary, "run_id": str(ids.to_uuid(summary["run_id"]))}
    for key in ("started", "ended", "declared", "until"):
        if summary.get(key) is not None:
            shown[key] = _time(summary[key])
    if shown.get("parent"):
        shown["parent"] = str(ids.to_uuid(shown["parent"]))
    return shown


def _time(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
