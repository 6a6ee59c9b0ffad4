"""``kapstan task``: ``serve``, a worker for the tasks that modules or files define; other commands stand beside it."""

from __future__ import annotations

import importlib
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from kapstan import settings
from kapstan.cli import task_pause
from kapstan.cli.seconds import SECONDS
from kapstan.cli.task_key import inspect
from kapstan.engine import queue_options
from kapstan.errors import ConfigurationError
from kapstan.logging import configure_process
from kapstan.ports import launch
from kapstan.ports.launch import WorkerLaunch
from kapstan.worker import entrypoints as entrypoints_module
from kapstan.worker import service


@click.group()
def command() -> None:
    """Serve tasks: run what `.delay()` submitted. List, pause and resume them. Inspect one: what makes up its keys."""


for _each in (inspect, task_pause.ls, task_pause.pause, task_pause.resume):
    command.add_command(_each)


@command.command()
@click.argument("entrypoints", nargs=-1, metavar="[MODULE:TASK | FILE.PY:TASK]...")
@click.option("--module", "-m", "modules", multiple=True, help="Serve every task that this module (or file) defines.")
@click.option(
    "--limit",
    type=click.IntRange(1, service.MOST_LANES),
    help="Runs at a time, each in a process of its own. [default: 10]",
)
@click.option(
    "--queue",
    "queues",
    multiple=True,
    help="Claim runs from this queue; may be given more than once. [default: `default`, and the queue that a task's "
    "option `queue` names]",
)
@click.option("--name", envvar=launch.WORKER_NAME, default="", help="Name of this worker in lists.")
@click.option(
    "--drain-seconds",
    type=SECONDS,
    default=service.DRAIN_SECONDS,
    show_default=True,
    help="How long runs may go on after SIGTERM before they go back to the queue.",
)
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file that exists while this worker serves.",
)
def serve(**options: Any) -> None:
    """Execute the background runs of tasks, until SIGTERM or Ctrl-C.

    Exits with 0 when every run was finished, with 75 when some went back to the queue, with 2 when the tasks cannot be
    loaded.
    """
    asked = read(**options)
    # What modules of tasks import: once, before the fork, and not in every child.
    for module in ("kapstan.tasks", "kapstan.flows"):
        importlib.import_module(module)
    level = settings.current().log_level
    configure_process(level)
    sys.exit(
        service.run(
            partial(
                entrypoints_module.load,
                [task for task in asked.tasks if ":" in task],
                [task for task in asked.tasks if ":" not in task],
            ),
            lanes=asked.concurrency,
            worker=asked.name,
            queues=asked.queues,
            drain_seconds=asked.drain_seconds,
            ready_file=Path(asked.ready_file) if asked.ready_file else None,
            say=click.echo,
        )
    )


def read(
    *,
    entrypoints: tuple[str, ...],
    modules: tuple[str, ...],
    limit: int | None,
    queues: tuple[str, ...],
    name: str,
    drain_seconds: float,
    ready_file: Path | None,
) -> WorkerLaunch:
    """What the options and this process' environment ask for.

    Raises:
        ConfigurationError: there is nothing to serve, or an entry that names no task.
    """
    if not entrypoints and not modules:
        raise ConfigurationError("nothing to serve: give module:task, file.py:task or --module")
    for entry in entrypoints:
        if ":" not in entry:
            raise ConfigurationError(
                f"{entry!r}: give module:task or file.py:task, such as app/tasks.py:charge; --module serves all of one"
            )
    ours = settings.current()
    return WorkerLaunch(
        name,
        ours.namespace,
        (*modules, *entrypoints),
        ours.worker_limit if limit is None else limit,
        drain_seconds,
        ready_file=str(ready_file or ""),
        session=os.environ.get(launch.SESSION, ""),
        queues=tuple(queue_options.queue("--queue", each) for each in queues),
    )
