"""`kapstan server`: the embedded Redis of this home, seen and ended by hand."""

from __future__ import annotations

import click

from kapstan import settings
from kapstan.backend import Backend
from kapstan.queue import server


@click.group()
def command() -> None:
    """The embedded Redis of this home."""


@command.command()
def status() -> None:
    """Say where the queue is and whether it answers; exits with 1 if it does not run."""
    current = settings.current()
    if not current.redis_url and not server.running(current.home_path):
        click.echo(f"the embedded server of {current.home_path} does not run; it starts when it is needed")
        raise SystemExit(1)
    backend = Backend(current)
    try:
        where = "KAPSTAN_REDIS_URL" if current.redis_url else f"the embedded server of {current.home_path}"
        click.echo(f"{where} answers: {backend.queue.ping()}")
    finally:
        backend.close()


@command.command()
def stop() -> None:
    """End it after it has written everything. Its runs are there at the next start."""
    home = settings.current().home_path
    click.echo("stopped" if server.stop(home) else f"the embedded server of {home} does not run")
