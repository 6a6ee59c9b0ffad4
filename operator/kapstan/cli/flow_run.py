"""``kapstan flow-run``: look at flow runs; cancel, resume, retry and delete them. ``runs`` says what each means."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any, TextIO, cast

import click

from kapstan import backend as backends
from kapstan import ids
from kapstan.cli.output import RunCommand, Since, length, moment, more, print_json, table
from kapstan.cli.run import load_flow
from kapstan.engine import definition
from kapstan.errors import ConfigurationError
from kapstan.ids import RunId
from kapstan.journal import History
from kapstan.runs import parameters as stored_parameters
from kapstan.runs.flow_runs import FlowRunFilter, FlowRuns, Start
from kapstan.runs.flow_view import FlowRunView
from kapstan.runs.words import flow_states
from kapstan.specs import FlowSpec
from kapstan.worker import flow_process
from kapstan.worker.flow_process import Attempt


@click.group()
def command() -> None:
    """List, inspect, cancel, resume, retry and delete flow runs; store parameters for them."""


@command.command()
@click.option("--state", "states", multiple=True, help="Only runs in this state; may be given again.")
@click.option("--flow", default="", help="Only runs of this flow.")
@click.option("--deployment", default="", help="Only runs of this deployment.")
@click.option("--name", default="", help="Only runs with this in their name.")
@click.option("--tag", default="", help="Only runs with this tag.")
@click.option("--since", type=Since(), help="Only runs made since then: 30m, 2h, 7d, or a date.")
@click.option("--until", type=Since(), help="Only runs made before then.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many, newest first.")
@click.option("--cursor", default="", help="Go on where an earlier page ended.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def ls(states: tuple[str, ...], limit: int, cursor: str, output: str, **chosen: Any) -> None:
    """List flow runs, newest first.

    Reads at most 2,000 of them; if there may be more, it prints a cursor for the next page. A run whose process is
    gone without a word is Lost: it goes on with `kapstan flow-run resume`.
    """
    page = FlowRuns(backends.current()).page(FlowRunFilter(states=flow_states(states), **chosen), limit, cursor)
    if output == "json":
        print_json([_readable(run) for run in page.runs])
    else:
        rows = [
            (run.id, run.name, run.flow, run.state, str(run.attempt), moment(run.started), length(run.took), run.why)
            for run in page.runs
        ]
        table(("ID", "NAME", "FLOW", "STATE", "ATTEMPT", "STARTED", "TOOK", "WHY"), rows)
    more(page.cursor, page.searched_until)


@command.command(cls=RunCommand)
@click.argument("run_id")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def inspect(run_id: str, output: str) -> None:
    """Show one flow run: its state, its attempts, the task runs that it finished."""
    runs = FlowRuns(backends.current())
    found = runs.find(run_id)
    shown = {**_readable(runs.view(found)), **_history(runs.history(found))}
    if output == "json":
        print_json(shown)
        return
    attempts, task_runs = shown.pop("attempts"), shown.pop("task_runs")
    for key, value in shown.items():
        if value not in ("", None, []):
            click.echo(f"{key}: {value}")
    for title, items in (("attempts", attempts), ("task runs", task_runs)):
        click.echo(f"{title}:")
        for item in items:
            click.echo("  " + ", ".join(f"{key}={value}" for key, value in item.items() if value not in ("", None)))


@command.command(cls=RunCommand)
@click.argument("run_id")
@click.option("--wait", type=click.FloatRange(0), default=30.0, show_default=True, help="Seconds to wait for its end.")
@click.option("--force", is_flag=True, help="End it now, wherever its process is; that ends at its next record.")
def cancel(run_id: str, wait: float, force: bool) -> None:
    """Stop a run; everybody who asks for it then sees Cancelled."""
    runs = FlowRuns(backends.current())
    found = runs.find(run_id)
    state = runs.cancel(found, wait=wait, force=force)
    click.echo(f"Cancelled flow run {ids.to_uuid(found)}" if state == "Cancelled" else f"Told its process: {state}")


@command.command(cls=RunCommand)
@click.argument("run_id")
@click.option("--force", is_flag=True, help="Also if it seems to run still: that process loses the run.")
def resume(run_id: str, force: bool) -> None:
    """Go on, on this machine, with a run that was lost, handed back or failed.

    What it finished is not run again; after a failure, what failed is. Runs of a deployment are resumed by the
    operator.
    """
    runs = FlowRuns(backends.current())
    found = runs.find(run_id)
    shown = runs.view(found)
    if shown.state == "Completed":
        click.echo(f"Flow run {shown.id} is Completed already")
        return
    _start(runs.resume(found, force=force))


@command.command(cls=RunCommand)
@click.argument("run_id")
def retry(run_id: str) -> None:
    """Run, on this machine, what failed in a run that failed, crashed or was cancelled; not what completed."""
    runs = FlowRuns(backends.current())
    _start(runs.retry(runs.find(run_id)))


@command.command(cls=RunCommand)
@click.argument("run_id")
def delete(run_id: str) -> None:
    """Forget a run that has ended: its summary, its journal and its stored values."""
    runs = FlowRuns(backends.current())
    found = runs.find(run_id)
    runs.delete(found)
    click.echo(f"Deleted flow run {ids.to_uuid(found)}")


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


def _start(start: Start) -> None:
    """Execute the next attempt of a run in this process."""
    backend = backends.current()
    defined = definition.read(backend, start.run_id)
    if defined is None or not defined.entrypoint or defined.parameters is None:
        raise ConfigurationError(
            f"run {ids.to_uuid(start.run_id)} cannot be executed by another process: its flow is a local function, or "
            "its parameters could not be serialised"
        )
    if os.path.isdir(defined.folder):
        os.chdir(defined.folder)
    entrypoint, parameters = defined.entrypoint, defined.parameters

    def load() -> tuple[FlowSpec, dict[str, Any]]:
        return load_flow(entrypoint), parameters

    backends.use(backend.settings)  # connections do not survive the fork that follows
    attempt = Attempt(start.run_id, start.attempt, entrypoint, name=defined.name, again=start.again)
    flow_process.execute(attempt, load)


def _readable(run: FlowRunView) -> dict[str, Any]:
    shown: dict[str, Any] = {**asdict(run), "tags": list(run.tags)}
    for name in ("created", "started", "ended"):
        shown[name] = moment(shown[name]) or None
    shown["took"] = None if run.took is None else round(run.took, 3)
    return shown


def _history(history: History) -> dict[str, Any]:
    return {
        "attempts": [
            {
                "number": attempt.number,
                "host": attempt.host,
                "started": moment(attempt.started),
                "end": None if attempt.end is None else attempt.end.end,
                "ended": None if attempt.end is None else moment(attempt.end.at),
                "message": "" if attempt.end is None else attempt.end.message,
            }
            for attempt in history.attempts
        ],
        "task_runs": [_task_run(key, outcome) for key, outcome in history.outcomes.items()],
    }


def _task_run(key: RunId, outcome: Any) -> dict[str, Any]:
    return {"id": str(ids.to_uuid(key)), "name": outcome.name, "task": outcome.task, "state": outcome.state_name}
