"""``kapstan config``: the settings as this process sees them."""

from __future__ import annotations

import json
from dataclasses import fields

import click

from kapstan import settings as settings_module
from kapstan.settings import Settings


@click.group()
def command() -> None:
    """Show the settings."""


@command.command()
@click.option("--describe", is_flag=True, help="With what each of them means.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def view(describe: bool, output: str) -> None:
    """Show every setting by the name of its environment variable; secrets are masked."""
    current = settings_module.current()
    shown = {f"KAPSTAN_{field.name.upper()}": _text(current, field.name) for field in fields(Settings)}
    if output == "json":
        click.echo(json.dumps(shown, indent=2))
        return
    meaning = {f"KAPSTAN_{field.name.upper()}": field.metadata["doc"] for field in fields(Settings)}
    for name, value in shown.items():
        if describe:
            click.echo(f"# {meaning[name]}")
        click.echo(f"{name}={value}")


def _text(current: Settings, name: str) -> str:
    value = getattr(current, name)
    secret = next(field.metadata["secret"] for field in fields(Settings) if field.name == name)
    return "********" if secret and value else str(value)
