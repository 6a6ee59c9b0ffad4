"""``kapstan task-run``: look at background runs; cancel, retry and delete them. What each means stands in ``runs``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from kapstan import backend as backends
from kapstan import ids
from kapstan.cli.output import RunCommand, Since, length, moment, more, print_json, print_result, table
from kapstan.cli.seconds import SECONDS
from kapstan.errors import KapstanError, NotFound, NotPossible
from kapstan.ids import RunId
from kapstan.ports import BackgroundFilter
from kapstan.runs import results, retrying
from kapstan.runs.flow_runs import FlowRuns
from kapstan.runs.parked import ParkedKeys, is_key
from kapstan.runs.task_runs import TaskRuns, TaskRunView
from kapstan.runs.words import NAMES, background_states

_TIMES = ("submitted", "started", "ended")
_TOLD = 500  # runs between two words of how far a retry of many is
_NAMED = 10  # refusals of such a retry that are printed


@click.group()
def command() -> None:
    """List, inspect, cancel, retry, resolve and delete background runs; print results."""


@command.command()
@click.option("--state", "states", multiple=True, help="Only runs in this state; may be given again.")
@click.option("--task", default="", help="Only runs of this task: its identity, or its name alone.")
@click.option("--queue", default="", help="Only runs in this queue.")
@click.option("--since", type=Since(), help="Only runs submitted since then: 30m, 2h, 7d, or a date.")
@click.option("--until", type=Since(), help="Only runs submitted before then.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many, newest first.")
@click.option("--cursor", default="", help="Go on where an earlier page ended.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def ls(
    states: tuple[str, ...],
    task: str,
    queue: str,
    since: float | None,
    until: float | None,
    limit: int,
    cursor: str,
    output: str,
) -> None:
    """List background runs, newest first (failed, crashed and cancelled ones by their end).

    Reads at most 2,000 records; if there may be more, it prints a cursor for the next page.
    """
    chosen = BackgroundFilter(background_states(states), task, queue, since, until)
    page = TaskRuns(backends.current()).page(chosen, limit, cursor)
    if output == "json":
        print_json([_readable(run) for run in page.runs])
        more(page.cursor, page.searched_until)
        return
    table(
        ("ID", "TASK", "STATE", "ATTEMPT", "QUEUE", "SUBMITTED", "TOOK", "WHY"),
        [
            (run.id, run.task, run.state, str(run.attempt), run.queue, moment(run.submitted), length(run.took), run.why)
            for run in page.runs
        ],
    )
    more(page.cursor, page.searched_until)


@command.command(cls=RunCommand)
@click.argument("run", metavar="RUN_ID|KEY")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def inspect(run: str, output: str) -> None:
    """Show one background run: its moments, why it is where it is, its arguments, result or error.

    Of a key, as a flow that is parked names it: what is known of its effect, with what was seen of the process that
    died in it (exit code, pod, node, the last lines of its log).
    """
    shown = _known_of_key(run) if is_key(run) else _known_of_run(run)
    if output == "json":
        print_json(shown)
        return
    for key, entry in shown.items():
        if entry not in ("", None):
            click.echo(f"{key}: {entry if isinstance(entry, str) else json.dumps(entry)}")


def _known_of_key(key: str) -> dict[str, Any]:
    parked = ParkedKeys(backends.current())
    return parked.view(parked.find(key))


def _known_of_run(run_id: str) -> dict[str, Any]:
    runs = TaskRuns(backends.current())
    found = runs.find(run_id)
    view, value = runs.view(found)
    return {**_readable(view), **value, **_doubt(view, found)}


def _doubt(view: TaskRunView, run_id: RunId) -> dict[str, Any]:
    """Of a parked run: what is known of its effect."""
    if view.state != NAMES["parked"]:
        return {}
    parked = ParkedKeys(backends.current())
    try:
        return {"doubt": parked.view(parked.find(run_id))}
    except KapstanError as error:
        return {"doubt": f"what is known of its effect cannot be read: {error}"}


@command.command(cls=RunCommand)
@click.argument("run_id")
@click.option("--flow-run", default="", help="The flow run that called it (an id or a name): of a task in a flow.")
def result(run_id: str, flow_run: str) -> None:
    """Print what one run returned: JSON on standard output.

    Of a value that is no JSON it says what it is and how large: nothing is unpickled. Exits with 1 if the run did not
    complete.
    """
    backend = backends.current()
    if not flow_run:
        runs = TaskRuns(backend)
        found = runs.find(run_id)
        print_result(runs.result(found), f'kapstan.results.read("{ids.to_uuid(found)}")')
        return
    try:
        found = ids.parse(run_id)
    except ValueError:
        raise NotFound(f"{run_id!r} is no id of a task run") from None
    flow = FlowRuns(backend).find(flow_run)
    in_python = f'kapstan.results.read("{ids.to_uuid(found)}", flow_run_id="{ids.to_uuid(flow)}")'
    print_result(results.of_call(backend, flow, found), in_python)


@command.command(cls=RunCommand)
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN_ID...")
@click.option("--wait", type=SECONDS, default=10.0, show_default=True, help="Seconds to wait for its end.")
def cancel(run_ids: tuple[str, ...], wait: float) -> None:
    """Stop runs: what waits ends at once, what runs is stopped by its worker."""

    def stop(runs: TaskRuns, run_id: RunId) -> str:
        state = runs.cancel(run_id, wait)
        if state == "Parked":
            return "Its effect is in doubt; decide with `kapstan task-run resolve`:"
        return "Cancelled" if state == "Cancelled" else f"Asked its worker to stop it; still {state.lower()}:"

    _each(run_ids, stop)


@command.command(cls=RunCommand)
@click.argument("run_ids", nargs=-1, metavar="[RUN_ID]...")
@click.option("--state", "states", multiple=True, help="All runs in this state: failed, crashed or cancelled.")
@click.option("--task", default="", help="With --state: only runs of this task: its identity, or its name alone.")
@click.option("--queue", default="", help="With --state: only runs in this queue.")
@click.option("--since", type=Since(), help="With --state: only runs that ended since then: 30m, 2h, 7d, or a date.")
@click.option("--until", type=Since(), help="With --state: only runs that ended before then.")
@click.option("--yes", is_flag=True, help="With --state: do not ask.")
def retry(
    run_ids: tuple[str, ...],
    states: tuple[str, ...],
    task: str,
    queue: str,
    since: float | None,
    until: float | None,
    yes: bool,
) -> None:
    """Run failed, crashed or cancelled runs once more, under their ids and with their arguments: those that are named,
    or all that --state and the other options choose. Of the latter it says how many there are, and asks.
    """
    if not states and (task or queue or since is not None or until is not None):
        raise click.UsageError("--state: give failed, crashed or cancelled")
    if bool(run_ids) == bool(states):
        raise click.UsageError("give ids of runs, or --state, and not both")
    if states:
        _retry_chosen(BackgroundFilter(background_states(states), task, queue, since, until), yes)
        return

    def again(runs: TaskRuns, run_id: RunId) -> str:
        runs.retry(run_id)
        return "Submitted again:"

    _each(run_ids, again)


def _retry_chosen(chosen: BackgroundFilter, yes: bool) -> None:
    backend = backends.current()
    found = retrying.chosen_runs(backend, chosen)
    if not found:
        click.echo("There are no such runs")
        return
    if not yes:
        click.confirm(f"Have {len(found):,} runs run once more?", abort=True, err=True)
    so_far = retrying.Retries()

    def tell(retries: retrying.Retries) -> None:
        nonlocal so_far
        so_far = retries
        done = retries.retried + len(retries.refused)
        if done % _TOLD == 0 and done < len(found):
            click.echo(f"{done:,} of {len(found):,}", err=True)

    try:
        retrying.retry_each(backend, found, tell)
    finally:
        click.echo(f"Submitted again: {so_far.retried:,} of {len(found):,} runs")
    for reason in [*so_far.refused.values()][:_NAMED]:
        click.echo(f"Error: {reason}", err=True)
    if len(so_far.refused) > _NAMED:
        click.echo(f"Error: {len(so_far.refused) - _NAMED:,} more were refused", err=True)
    if so_far.refused:
        raise SystemExit(1)


@command.command(cls=RunCommand)
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN_ID...")
def delete(run_ids: tuple[str, ...]) -> None:
    """Forget runs that have ended: their records and stored values.

    A flow that is resumed submits a child of its own again that was deleted.
    """

    def forget(runs: TaskRuns, run_id: RunId) -> str:
        runs.delete(run_id)
        return "Deleted"

    _each(run_ids, forget)


@command.command(cls=RunCommand)
@click.argument("run", metavar="RUN_ID|KEY")
@click.option("--committed", "result", metavar="JSON", help="The effect happened, and this is the result.")
@click.option("--not-applied", is_flag=True, help="The effect did not happen: it is to be done now.")
@click.option("--epoch", type=int, help="Only if this execution is in doubt; without an option its number is shown.")
@click.option("--ended", is_flag=True, help="The process that holds the key has ended: its effect is in doubt now.")
def resolve(run: str, result: str | None, not_applied: bool, epoch: int | None, ended: bool) -> None:
    """Decide what became of a parked run's effect. Without an option: show what is known of it.

    A run whose machine is gone, and whose end nobody saw, holds its key until somebody says --ended.
    """
    parked = ParkedKeys(backends.current())
    key = parked.find(run)
    if sum((result is not None, not_applied, ended)) > 1:
        raise click.UsageError("--committed, --not-applied and --ended contradict each other")
    if ended:
        parked.say_ended(key)
        click.echo(f"Key {key.text} is parked; say --committed or --not-applied")
        return
    if result is None and not not_applied:
        print_json(parked.view(key))
        return
    try:
        value = None if result is None else json.loads(result)
    except ValueError as error:
        raise click.UsageError(f"--committed {result}: no JSON ({error})") from None
    try:
        if result is None:
            parked.say_not_applied(key, epoch)
        else:
            parked.say_applied(key, value, epoch)
    except NotPossible:
        if parked.is_decided(key):  # whoever decided may have died before its runs went on
            parked.go_on(key)
        raise
    gone_on = parked.go_on(key)
    click.echo(f"Key {key.text} is {'committed' if result is not None else 'released'}; {len(gone_on)} runs go on")
    for run_id in gone_on:
        click.echo(f"  task run {run_id}")
    if not gone_on:
        click.echo(
            "A flow run that waits for it goes on by itself within a minute if it has a FlowRun, else: "
            "kapstan flow-run resume ID"
        )


def _each(texts: tuple[str, ...], act: Callable[[TaskRuns, RunId], str]) -> None:
    """Act on each run, also after one was refused; exit with 1 if any was."""
    runs, refused = TaskRuns(backends.current()), 0
    for text in texts:
        try:
            run_id = runs.find(text)
            click.echo(f"{act(runs, run_id)} task run {ids.to_uuid(run_id)}")
        except KapstanError as error:
            refused += 1
            click.echo(f"Error: {error}", err=True)
    if refused:
        raise SystemExit(1)


def _readable(run: TaskRunView) -> dict[str, Any]:
    shown: dict[str, Any] = asdict(run)
    for name in _TIMES:
        shown[name] = moment(shown[name]) or None
    shown["took"] = None if run.took is None else round(run.took, 3)
    return shown
