"""``kapstan flow-run``: look at flow runs; cancel, resume, retry and delete them. ``runs`` says what each means."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any, TextIO, cast

import click

from kapstan import backend as backends
from kapstan import ids
from kapstan.cli.output import RunCommand, Since, length, moment, more, print_json, print_result, table
from kapstan.cli.run import load_flow
from kapstan.cli.seconds import SECONDS
from kapstan.cli.target import Target, target_options
from kapstan.engine import definition
from kapstan.errors import ConfigurationError, NotFound
from kapstan.ids import RunId
from kapstan.journal import History
from kapstan.ports import Manifest
from kapstan.runs import objects, results
from kapstan.runs import parameters as stored_parameters
from kapstan.runs.flow_runs import FlowRunPage, FlowRuns, Start
from kapstan.runs.flow_view import FlowRunFilter, FlowRunView, fits
from kapstan.runs.words import flow_states
from kapstan.specs import FlowSpec
from kapstan.worker import flow_process
from kapstan.worker.flow_process import Attempt


@click.group()
def command() -> None:
    """List, inspect, cancel, resume, retry and delete flow runs; print results; store parameters."""


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
@target_options
def ls(states: tuple[str, ...], limit: int, cursor: str, output: str, target: Target, **chosen: Any) -> None:
    """List flow runs, newest first; first those that wait for the operator.

    Reads at most 2,000 of them; if there may be more, it prints a cursor for the next page. A run whose process is
    gone without a word is Lost: it goes on with `kapstan flow-run resume`.
    """
    only = FlowRunFilter(states=flow_states(states), **chosen)
    page = FlowRunPage([]) if target.remote else FlowRuns(backends.current()).page(only, limit, cursor)
    runs = page.runs if cursor else [*_of_operator(target, only, {run.id for run in page.runs}), *page.runs]
    if output == "json":
        print_json([_readable(run) for run in runs])
    else:
        rows = [
            (run.id, run.name, run.flow, run.state, str(run.attempt), moment(run.started), length(run.took), run.why)
            for run in runs
        ]
        table(("ID", "NAME", "FLOW", "STATE", "ATTEMPT", "STARTED", "TOOK", "WHY"), rows)
    more(page.cursor, page.searched_until)


@command.command(cls=RunCommand)
@click.argument("run_id")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@target_options
def inspect(run_id: str, output: str, target: Target) -> None:
    """Show one flow run (an id, its name, or that of a FlowRun): its state, its attempts, the task runs it finished."""
    shown: dict[str, Any]
    manifest = _object(target, run_id)
    named = objects.view_of(manifest).id if manifest is not None else ""
    if manifest is not None and (target.remote or not named or not FlowRuns(backends.current()).knows(named)):
        shown = {**_readable(objects.view_of(manifest)), "attempts": [], "task_runs": []}
    else:
        runs = FlowRuns(backends.current())
        found = runs.find(named or run_id)
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
@target_options
def result(run_id: str, target: Target) -> None:
    """Print what one flow run (an id, its name, or that of a FlowRun) returned: JSON on standard output.

    Of a value that is no JSON it says what it is and how large: nothing is unpickled. Exits with 1 if the run did not
    complete.
    """
    backend = backends.current()
    manifest = _object(target, run_id)
    found = FlowRuns(backend).find(objects.view_of(manifest).id or run_id if manifest is not None else run_id)
    print_result(results.of_flow(backend, found), f'kapstan.results.read("{ids.to_uuid(found)}")')


@command.command(cls=RunCommand)
@click.argument("run_id")
@click.option("--wait", type=SECONDS, default=30.0, show_default=True, help="Seconds to wait for its end.")
@click.option("--force", is_flag=True, help="End it now, wherever its process is; that ends at its next record.")
@target_options
def cancel(run_id: str, wait: float, force: bool, target: Target) -> None:
    """Stop a run (an id, its name, or that of a FlowRun); everybody who asks for it then sees Cancelled."""
    manifest = None if force else _object(target, run_id)
    if manifest is not None:
        phase = target.run(lambda cluster: objects.cancel(cluster, manifest, wait))
        click.echo(f"FlowRun {manifest['metadata']['name']}: {phase}")
        return
    runs = FlowRuns(backends.current())
    found = runs.find(run_id)
    state = runs.cancel(found, wait=wait, force=force)
    click.echo(
        f"Cancelled flow run {ids.to_uuid(found)}" if state == "Cancelled" else f"Asked its process to end: {state}"
    )


@command.command(cls=RunCommand)
@click.argument("run_id")
@click.option("--force", is_flag=True, help="Also if it seems to run still: that process loses the run.")
@target_options
def resume(run_id: str, force: bool, target: Target) -> None:
    """Go on, on this machine, with a run that was lost, handed back or failed.

    What it finished is not run again; after a failure, what failed is. A run of a deployment (give the name of its
    FlowRun, or its id) is resumed by the operator.
    """
    if _by_operator(target, run_id):
        return
    runs = FlowRuns(backends.current())
    found = runs.find(run_id)
    shown = runs.view(found)
    if shown.state == "Completed":
        click.echo(f"Flow run {shown.id} is Completed already")
        return
    _start(runs.resume(found, force=force))


@command.command(cls=RunCommand)
@click.argument("run_id")
@target_options
def retry(run_id: str, target: Target) -> None:
    """Run what failed in a run that failed, crashed or was cancelled; not what completed.

    On this machine; a run of a deployment (give the name of its FlowRun, or its id) by the operator.
    """
    if _by_operator(target, run_id):
        return
    runs = FlowRuns(backends.current())
    _start(runs.retry(runs.find(run_id)))


@command.command(cls=RunCommand)
@click.argument("run_id")
@click.option("--force", is_flag=True, help="Also a run whose journal cannot be read, so that nobody can resume it.")
@target_options
def delete(run_id: str, force: bool, target: Target) -> None:
    """Forget a run that has ended: its FlowRun, its summary, its journal and its stored values."""
    manifest = _object(target, run_id)
    if manifest is not None:
        target.run(lambda cluster: objects.delete(cluster, manifest))
        run_id = objects.view_of(manifest).id or run_id
        click.echo(f"Deleted FlowRun {manifest['metadata']['name']}")
        if target.remote or not FlowRuns(backends.current()).knows(run_id):
            return
    runs = FlowRuns(backends.current())
    found = runs.find(run_id)
    runs.delete(found, force=force)
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


def _object(target: Target, text: str) -> Manifest | None:
    """The FlowRun object that ``text`` means.

    Raises:
        NotFound: a cluster was named, and it has none.
    """
    found = target.run(lambda cluster: objects.find(cluster, target.namespace_or_default, text))
    if found is None and target.remote:
        raise NotFound(f"no FlowRun in namespace {target.namespace_or_default!r} has the name or the run {text!r}")
    return found


def _of_operator(target: Target, only: FlowRunFilter, known: set[str]) -> list[FlowRunView]:
    """Runs of FlowRun objects that the index does not know: they wait for their time, their pool, their first attempt;
    of a cluster all."""
    found = target.run(lambda cluster: objects.views(cluster, target.namespace_or_default))
    if not target.remote:
        runs = FlowRuns(backends.current())
        found = [run for run in found if run.id not in known and not runs.knows(run.id, unreadable=False)]
    return [run for run in found if fits(only, run)]


def _by_operator(target: Target, text: str) -> bool:
    """Have the operator go on with the run that ``text`` means; False if it has none such."""
    manifest = _object(target, text)
    if manifest is None:
        return False
    target.run(lambda cluster: objects.resume(cluster, manifest))
    click.echo(f"FlowRun {manifest['metadata']['name']} goes on from what it has finished")
    return True


def _start(start: Start) -> None:
    """Execute the next attempt of a run in this process."""
    backend = backends.current()
    defined = definition.read(backend, start.run_id)
    if defined is None:
        run_id = ids.to_uuid(start.run_id)
        raise ConfigurationError(
            f"nothing is stored that says what run {run_id} executes; go on with: kapstan run ENTRYPOINT "
            f"--run-id {run_id} --attempt {start.attempt}{' --again' if start.again else ''}, and its parameters"
        )
    if not defined.entrypoint or defined.parameters is None:
        raise ConfigurationError(
            f"run {ids.to_uuid(start.run_id)} cannot be executed by another process: its flow is a local function, or "
            "its parameters could not be serialised"
        )
    if os.path.isdir(defined.folder):
        os.chdir(defined.folder)
    entrypoint, module = defined.entrypoint, defined.module

    def load() -> tuple[FlowSpec, dict[str, Any]]:
        spec = load_flow(entrypoint, module_name=module)
        return spec, definition.parameters(backends.current(), start.run_id)

    backends.use(backend.settings)  # connections do not survive the fork that follows
    attempt = Attempt(start.run_id, start.attempt, entrypoint, name=defined.name, again=start.again, tags=defined.tags)
    flow_process.execute(attempt, load)


def _readable(run: FlowRunView) -> dict[str, Any]:
    shown: dict[str, Any] = {**asdict(run), "run_id": run.id, "tags": list(run.tags)}
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
