"""`kapstan apply`: the same YAML that `kubectl apply` takes, to a cluster or to this machine."""

from __future__ import annotations

from pathlib import Path

import click

from kapstan.cli.manifests import read
from kapstan.cli.target import Target, target_options
from kapstan.errors import ConfigurationError
from kapstan.ports import Cluster, Key, Manifest
from kapstan.resources import API_VERSION


@click.command()
@click.option(
    "-f",
    "--filename",
    "paths",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path, exists=True, allow_dash=True),
    help="File or directory with manifests; - reads standard input. May be given several times.",
)
@target_options
def command(paths: tuple[Path, ...], target: Target) -> None:
    """Create or change resources from YAML files, as `kapstan get -o yaml` prints them, too.

    Without --kubeconfig, KAPSTAN_KUBECONFIG or --cluster they are kept on this machine, where `kapstan dev` runs them.
    """
    manifests = [manifest for path in paths for manifest in read(path, target.namespace_or_default)]
    if not manifests:
        raise ConfigurationError(f"no resource of {API_VERSION} in {', '.join(map(str, paths))}")

    async def work(cluster: Cluster) -> None:
        for manifest in manifests:
            click.echo(await apply(cluster, manifest))

    target.run(work)


async def apply(cluster: Cluster, manifest: Manifest) -> str:
    """Apply one manifest; what became of it, in kubectl's words."""
    key = Key(manifest["kind"], manifest["metadata"]["namespace"], manifest["metadata"]["name"])
    before = await cluster.get(key)
    after = await cluster.apply(manifest)
    if before is None:
        done = "created"
    elif before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]:
        done = "unchanged"
    else:
        done = "configured"
    return f"{key.kind.lower()}.kapstan.dev/{key.name} {done}"
