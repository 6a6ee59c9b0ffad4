"""`kapstan apply`: the same YAML that `kubectl apply` takes, to a cluster or to this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import click
import yaml

from kapstan.cli.target import Target, target_options
from kapstan.errors import ConfigurationError
from kapstan.ports import Cluster, Key, Manifest
from kapstan.resources import API_VERSION, parse, validate

_SUFFIXES = (".yaml", ".yml", ".json")


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
    """Create or change resources from YAML files.

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


def read(path: Path, namespace: str) -> list[Manifest]:
    """Our manifests in a file or directory, valid by shape and rules; documents of other groups are left out.

    Raises:
        ConfigurationError: no YAML, or not a mapping.
        InvalidResource: what the API server would refuse.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
        return [manifest for file in files for manifest in read(file, namespace)]
    with click.open_file(str(path)) as file:
        try:
            documents: list[Any] = list(yaml.safe_load_all(file))
        except yaml.YAMLError as error:
            raise ConfigurationError(f"{path} is no YAML: {error}") from None
    found: list[Manifest] = []
    for document in documents:
        if document is None:
            continue
        if not isinstance(document, dict) or "metadata" not in document:
            raise ConfigurationError(f"{path}: a document is no manifest: write apiVersion, kind, metadata and spec")
        manifest = cast("Manifest", document)
        if str(manifest.get("apiVersion", "")).partition("/")[0] != API_VERSION.partition("/")[0]:
            continue
        manifest["metadata"].setdefault("namespace", namespace)
        validate(parse(manifest))
        found.append(manifest)
    return found
