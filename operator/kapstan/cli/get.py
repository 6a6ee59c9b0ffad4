"""`kapstan get`: resources as tables, YAML or JSON; the columns are those that kubectl shows."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from kapstan.cli.columns import find
from kapstan.cli.manifests import as_yaml
from kapstan.cli.target import Target, kind_of, target_options
from kapstan.errors import NotFound
from kapstan.ports import Cluster, Key, Kind, Manifest
from kapstan.resources import KINDS


@click.command()
@click.argument("kind", metavar="KIND|all")
@click.argument("name", required=False)
@click.option(
    "-o", "--output", type=click.Choice(["table", "wide", "yaml", "json"]), default="table", show_default=True
)
@target_options
def command(kind: str, name: str | None, output: str, target: Target) -> None:
    """Show resources, such as `kapstan get flowruns` or `kapstan get fr NAME -o yaml`."""
    kinds: list[Kind] = list(KINDS) if kind in ("all", "kapstan") else [kind_of(kind)]  # type: ignore[assignment]

    async def work(cluster: Cluster) -> dict[Kind, list[Manifest]]:
        if name is None:
            return {each: await cluster.list(each, target.namespace_or_default) for each in kinds}
        key = Key(kinds[0], target.namespace_or_default, name)
        manifest = await cluster.get(key)
        if manifest is None:
            raise NotFound(f"no {key.kind} named {name!r} in namespace {key.namespace!r}")
        return {key.kind: [manifest]}

    found = target.run(work)
    manifests = [manifest for each in found.values() for manifest in each]
    if output in ("yaml", "json"):
        document: Any = manifests[0] if name is not None else {"apiVersion": "v1", "kind": "List", "items": manifests}
        click.echo(json.dumps(document, indent=2) if output == "json" else as_yaml(document))
        return
    if not manifests:
        click.echo(f"No resources found in namespace {target.namespace_or_default}.", err=True)
    console = Console(width=None if Console().is_terminal else 200, highlight=False)
    for each, items in found.items():
        if items:
            console.print(_table(each, items, wide=output == "wide"))


def _table(kind: Kind, manifests: list[Manifest], *, wide: bool) -> Table:
    model = KINDS[kind]
    columns = [column for column in model.columns if wide or column.priority == 0]
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    table.add_column(kind.upper(), no_wrap=True)
    for column in columns:
        table.add_column(column.name.upper(), justify="right" if column.type == "integer" else "left")
    for manifest in manifests:
        cells = [_shown(find(manifest, column.path), column.type) for column in columns]
        table.add_row(str(manifest["metadata"]["name"]), *cells)
    return table


def _shown(value: Any, type_: str) -> str:
    if value is None:
        return ""
    return age(str(value)) if type_ == "date" else str(value)


def age(text: str) -> str:
    """How long ago a moment was, as kubectl writes it."""
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds())
    for length, letter in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * length:
            return f"{seconds // length}{letter}"
    return f"{max(0, seconds)}s"
