"""`kapstan delete`: resources by kind and name; what belongs to them goes with them."""

from __future__ import annotations

import click

from kapstan.cli.target import Target, kind_of, target_options
from kapstan.ports import Cluster, Key


@click.command()
@click.argument("kind")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@target_options
def command(kind: str, names: tuple[str, ...], target: Target) -> None:
    """Delete resources, such as `kapstan delete flowrun NAME`. A Deployment's runs are deleted with it."""
    keys = [Key(kind_of(kind), target.namespace_or_default, name) for name in names]

    async def work(cluster: Cluster) -> None:
        for key in keys:
            await cluster.delete(key)
            click.echo(f"{key.kind.lower()}.kapstan.dev/{key.name} deleted")

    target.run(work)
