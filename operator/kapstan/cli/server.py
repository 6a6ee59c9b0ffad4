"""`kapstan server`: the embedded Redis of this home, seen and ended by hand."""

from __future__ import annotations

import click

from kapstan import settings
from kapstan.backend import Backend
from kapstan.durability import Durability
from kapstan.queue import server
from kapstan.queue.access import ROLES, rules


@click.group()
def command() -> None:
    """The embedded Redis of this home; users for a Redis of your own."""


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


@command.command()
@click.option(
    "--role", required=True, type=click.Choice(list(ROLES)), help="; ".join(f"{n}: {r.about}" for n, r in ROLES.items())
)
@click.option("--user", default="", help="Name of the Redis user; without it, role and namespace.")
@click.option(
    "--namespace",
    "-n",
    "namespaces",
    multiple=True,
    help="Which namespace; may be given again. Without it, that of KAPSTAN_NAMESPACE.",
)
@click.option(
    "--durability",
    type=click.Choice([level.value for level in Durability]),
    help="Of what it submits. With aof the rule has +waitaof, which Redis before 7.2 does not know. "
    "[default: KAPSTAN_DURABILITY]",
)
def acl(role: str, user: str, namespaces: tuple[str, ...], durability: str | None) -> None:
    """Print the ACL rule of a Redis user with the rights of one role in these namespaces, and no others.

    Give it to `redis-cli` or into an ACL file, with a password in place of PASSWORD. Repeat it after an upgrade: the
    rights are those that this release's scripts need.
    """
    current = settings.current()
    wanted = namespaces or (current.namespace,)
    synced = (durability or current.durability) == Durability.AOF
    rule = rules(role, *wanted, synced=synced)
    click.echo(f"ACL SETUSER {user or f'{wanted[0]}-{role}'} reset on >PASSWORD {rule}")
