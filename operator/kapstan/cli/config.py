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


@command.command()
def reference() -> None:
    """Print docs/settings.md: every setting with its default and meaning, and every option of tasks and flows."""
    click.echo(rendered(), nl=False)


def rendered() -> str:
    """docs/settings.md, made of the code."""
    from kapstan.engine.options import FlowOptions, TaskOptions

    lines = [
        "# Settings and options",
        "",
        "Made by `kapstan config reference`; do not edit. `kapstan config view` shows the values of a process.",
        "An empty variable is not set. An alias is Prefect's name for the same setting; ours wins.",
        "",
        "| variable | default | alias | meaning |",
        "|---|---|---|---|",
    ]
    for field in fields(Settings):
        about = field.metadata
        alias, default = (
            f"`{about['alias']}`" if about["alias"] else "",
            f"`{field.default}`" if field.default != "" else "",
        )
        lines.append(f"| `KAPSTAN_{field.name.upper()}` | {default} | {alias} | {about['doc']} |")
    for title, options in (("Options of `@task`", TaskOptions), ("Options of `@flow`", FlowOptions)):
        lines += [
            "",
            f"## {title}",
            "",
            "None takes an option back to its default.",
            "",
            "| option | meaning |",
            "|---|---|",
        ]
        for name, kind in options.__annotations__.items():
            lines.append(f"| `{name}` | {kind.__metadata__[1]} |")
    return "\n".join(lines) + "\n"
