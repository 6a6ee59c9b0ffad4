"""``kapstan task-run``: look at background runs. Shows what the queue's records say; unpickles nothing."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from kapstan import backend as backends
from kapstan import codec, ids
from kapstan.backend import Backend
from kapstan.engine.values import arguments_key
from kapstan.errors import ConfigurationError, NotFound, SerializationError
from kapstan.ports import RunRecord

_ENDED = ("completed", "failed", "crashed", "cancelled")


@click.group()
def command() -> None:
    """List and inspect background runs."""


@command.command()
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many, newest first.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def ls(limit: int, output: str) -> None:
    """List background runs that the queue knows, newest first."""
    records = backends.current().queue.runs(limit)
    if output == "json":
        click.echo(json.dumps([_readable(record) for record in records], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("ID", "TASK", "STATE", "ATTEMPT", "CRASHES", "QUEUE", box=None, pad_edge=False)
    for record in records:
        shown = _readable(record)
        table.add_row(*[str(shown[key]) for key in ("id", "task", "state", "attempt", "crashes", "queue")])
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@command.command()
@click.argument("run_id")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def inspect(run_id: str, output: str) -> None:
    """Show one background run, with its result or its failure where that can be shown."""
    backend = backends.current()
    try:
        found = ids.parse(run_id)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    record = backend.queue.record(found)
    if record is None:
        raise NotFound(f"the queue does not know run {run_id}: it was not submitted here, or its record has expired")
    shown = {**_readable(record), **_value(backend, record)}
    if output == "json":
        click.echo(json.dumps(shown, indent=2))
        return
    for key, value in shown.items():
        if value not in ("", None):
            click.echo(f"{key}: {value if isinstance(value, str) else json.dumps(value)}")


def _readable(record: RunRecord) -> dict[str, Any]:
    return {
        "id": str(ids.to_uuid(record.run_id)),
        "task": record.task,
        "state": record.state,
        "attempt": record.attempt,
        "crashes": record.crashes,
        "queue": record.queue,
    }


def _value(backend: Backend, record: RunRecord) -> dict[str, Any]:
    """Arguments before the end, result or failure after it; what is not JSON is described."""
    name = "result" if record.state in _ENDED else "arguments"
    if not record.envelope:
        return {}
    try:
        key = record.run_id if record.state in _ENDED else arguments_key(record.run_id, record.task)
        value = backend.codec.decode_json(record.envelope, name, key)
    except SerializationError:
        return {name: codec.describe(record.envelope)}
    if record.state in ("failed", "crashed"):
        return {"error": value.get("type"), "message": value.get("message"), "traceback": value.get("traceback")}
    return {name: value}
