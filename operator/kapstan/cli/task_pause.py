"""``kapstan task ls``, ``pause`` and ``resume``: what waits and runs of each task, and holding it back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import click

from kapstan import backend as backends
from kapstan.cli.output import print_json, table
from kapstan.errors import ConfigurationError, KapstanError
from kapstan.runs.tasks import Tasks

_QUEUE = click.option("--queue", default="", help="The queue; without a task all of it. [default: default]")
_TASKS = click.argument("tasks", nargs=-1, metavar="[TASK]...")


@click.command()
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def ls(output: str) -> None:
    """List the tasks that are served, that are paused, or that had runs in the last three hours; and what queues are
    paused."""
    views = Tasks(backends.current()).list()
    if output == "json":
        print_json([asdict(view) for view in views])
        return
    table(
        ("TASK", "QUEUE", "READY", "LIMITED", "DELAYED", "RUNNING", "WORKERS", "PAUSED"),
        [
            (
                view.task or "(all)",
                view.queue,
                str(view.ready),
                str(view.limited),
                str(view.delayed),
                str(view.running),
                str(view.workers),
                {"": "", "task": "yes", "queue": "its queue"}[view.paused],
            )
            for view in views
        ],
    )


@click.command()
@_TASKS
@_QUEUE
def pause(tasks: tuple[str, ...], queue: str) -> None:
    """Let no more runs of tasks start, or of a whole queue. Runs are still accepted, and those that a worker has begun
    or holds go on."""
    runs = Tasks(backends.current())

    def hold(task: str, queue: str) -> str:
        found = runs.pause(task, queue)
        if found and not runs.is_known(found, queue):
            click.echo(f"No worker serves {found}, and it had no runs in the last three hours: see its name", err=True)
        return found

    _each(tasks, queue, "Paused", hold)


@click.command()
@_TASKS
@_QUEUE
def resume(tasks: tuple[str, ...], queue: str) -> None:
    """Let runs of paused tasks, or of a paused queue, start again."""
    _each(tasks, queue, "Resumed", Tasks(backends.current()).resume)


def _each(tasks: tuple[str, ...], queue: str, done: str, act: Callable[[str, str], str]) -> None:
    """Act on each task, also after one was refused; exit with 1 if any was."""
    if not tasks and not queue:
        raise ConfigurationError("nothing is named: give a task, or --queue for a whole queue")
    queue, refused = queue or "default", 0
    for task in tasks or ("",):
        try:
            found = act(task, queue)
            click.echo(f"{done} task {found} in queue {queue}" if found else f"{done} queue {queue}")
        except KapstanError as error:
            refused += 1
            click.echo(f"Error: {error}", err=True)
    if refused:
        raise SystemExit(1)
