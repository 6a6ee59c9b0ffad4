"""`kapstan worker`: runs the flows of a process work pool on this machine."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from kapstan import settings
from kapstan.cli.control import Control, serving, until_signal
from kapstan.cli.seconds import SECONDS
from kapstan.cli.target import Target, target_options
from kapstan.errors import ConfigurationError, NotFound
from kapstan.logging import configure_process
from kapstan.ports import Cluster, Key
from kapstan.reconcile.kinds.work_pool.decision import unserved
from kapstan.reconcile.plan import SetStatus
from kapstan.resources import WorkPool


@click.group()
def command() -> None:
    """Run the deployments of a process work pool on this machine."""


@command.command()
@click.option("--pool", "-p", "name", required=True, help="The WorkPool to serve; its type is process.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path(),
    help="Where the code of its flows is. [default: here]",
)
@click.option("--grace", type=SECONDS, default=10.0, show_default=True, help="Seconds that processes get at the end.")
@target_options
def start(name: str, directory: Path, grace: float, target: Target) -> None:
    """Start the runs of a pool as processes here, until SIGTERM or Ctrl-C.

    What is broken off then is handed back: the next worker of the pool goes on from what it has finished.
    """
    current, directory = settings.current(), directory.resolve()
    pool = Key("WorkPool", target.namespace_or_default, name)
    configure_process(current.log_level)

    async def work(cluster: Cluster) -> None:
        await _check(cluster, pool)
        control = Control(current, cluster, directory, pool=pool, say=click.echo)
        stop = until_signal()
        click.echo(f"Serving WorkPool {name!r} with code from {directory}. Ctrl-C ends it.")
        try:
            await control.run(stop, grace=grace)
        finally:
            await _say_unserved(cluster, pool)

    with serving(current, pool):
        target.run(work)


async def _check(cluster: Cluster, key: Key) -> None:
    """Raises:
    NotFound, ConfigurationError: no such pool, or not one for processes.
    """
    manifest = await cluster.get(key)
    if manifest is None:
        raise NotFound(
            f"no WorkPool named {key.name!r} in namespace {key.namespace!r}: apply one with spec.type: process"
        )
    if WorkPool.from_dict(manifest).spec.type != "process":
        raise ConfigurationError(f"WorkPool {key.name!r} is of type kubernetes: the operator serves it, not a worker")


async def _say_unserved(cluster: Cluster, key: Key) -> None:
    manifest = await cluster.get(key)
    if manifest is None:
        return
    pool = WorkPool.from_dict(manifest)
    for action in unserved(pool, datetime.now(UTC)).actions:
        assert isinstance(action, SetStatus)
        await cluster.set_status(action.key, action.status, uid=action.uid)
