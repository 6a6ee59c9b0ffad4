"""`kapstan scale`: how many replicas a TaskWorker has."""

from __future__ import annotations

import click

from kapstan.cli.target import Target, kind_of, target_options
from kapstan.ports import Cluster, Key


@click.command()
@click.argument("kind")
@click.argument("name")
@click.option("--replicas", type=click.IntRange(min=0), required=True, help="Replicas that are wanted.")
@target_options
def command(kind: str, name: str, replicas: int, target: Target) -> None:
    """Change how many replicas a TaskWorker has: `kapstan scale taskworker NAME --replicas 3`.

    Replicas that go are drained first: nothing that runs is lost.
    """
    if kind_of(kind) != "TaskWorker":
        raise click.UsageError(f"a {kind_of(kind)} has no replicas: scale a taskworker")

    async def work(cluster: Cluster) -> None:
        await cluster.set_scale(Key("TaskWorker", target.namespace_or_default, name), replicas)

    target.run(work)
    click.echo(f"taskworker.kapstan.dev/{name} scaled")
