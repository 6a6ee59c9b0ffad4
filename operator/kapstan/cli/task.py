"""``kapstan task serve``: a worker for the tasks that modules or files define."""

from __future__ import annotations

import importlib
import logging
import sys
from functools import partial
from pathlib import Path

import click

from kapstan import settings
from kapstan.errors import ConfigurationError
from kapstan.worker import entrypoints as entrypoints_module
from kapstan.worker import service


@click.group()
def command() -> None:
    """Serve tasks: run what `.delay()` submitted."""


@command.command()
@click.argument("entrypoints", nargs=-1, metavar="[MODULE:TASK | FILE.PY:TASK]...")
@click.option("--module", "-m", "modules", multiple=True, help="Serve every task that this module (or file) defines.")
@click.option("--limit", type=int, help="Runs at a time, each in a process of its own. [default: 10]")
@click.option("--name", default="", help="Name of this worker in lists. [default: KAPSTAN_WORKER_NAME]")
@click.option(
    "--drain-seconds",
    type=float,
    default=service.DRAIN_SECONDS,
    show_default=True,
    help="How long runs may go on after SIGTERM before they go back to the queue.",
)
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file that exists while this worker serves.",
)
def serve(
    entrypoints: tuple[str, ...],
    modules: tuple[str, ...],
    limit: int | None,
    name: str,
    drain_seconds: float,
    ready_file: Path | None,
) -> None:
    """Execute the background runs of tasks, until SIGTERM or Ctrl-C.

    Exits with 0 when every run was finished, with 75 when some went back to the queue, with 2 when the tasks cannot be
    loaded.
    """
    if not entrypoints and not modules:
        raise ConfigurationError("nothing to serve: give module:task, file.py:task or --module")
    # What modules of tasks import: once, before the fork, and not in every child.
    for module in ("kapstan.tasks", "kapstan.flows"):
        importlib.import_module(module)
    ours = settings.current()
    logging.basicConfig(level=ours.log_level, format="%(asctime)s | %(levelname)-7s | %(name)s | %(message)s")
    sys.exit(
        service.run(
            partial(entrypoints_module.load, entrypoints, modules),
            lanes=ours.worker_limit if limit is None else limit,
            worker=name,
            drain_seconds=drain_seconds,
            ready_file=ready_file,
            say=click.echo,
        )
    )
