"""``kapstan task inspect``: which calls of a task share a result, and what its code is to the fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from kapstan import context, ids
from kapstan.cache_policies import CompoundCachePolicy, Inputs, TaskSource
from kapstan.cli import output
from kapstan.cli.run import named
from kapstan.engine import cache_key
from kapstan.engine.fingerprint import Fingerprint, fingerprint
from kapstan.errors import KapstanError
from kapstan.specs import TaskSpec
from kapstan.worker import entrypoints


@click.command()
@click.argument("entrypoint", metavar="MODULE:TASK | FILE.PY:TASK")
@click.option(
    "-p",
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="An argument, JSON or else a text: the key of a call.",
)
@click.option("-o", "--output", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def inspect(entrypoint: str, params: tuple[str, ...], form: str) -> None:
    """Show what makes up the keys of a task: its identity, its cache policy, and what of its code counts.

    With --param it also shows the key of that call, or why none can be made. The task is imported, not run.
    """
    (spec,) = entrypoints.load([entrypoint], []).values()
    told = _told(spec, dict(map(named, params)) if params else None)
    if form == "json":
        output.print_json(told)
        return
    for name, value in told.items():
        if isinstance(value, str):
            click.echo(f"{name + ':':<12} {value}")
    click.echo("\nIts keys are made of:")
    for name, value in told["parts"].items():
        click.echo(f"  {name:<16} {value}")
    click.echo("\nIts code:")
    rows = [[part["kind"], part["name"], part["digest"][:12], part["note"]] for part in told["code"]]
    output.table(["KIND", "NAME", "DIGEST", "NOTE"], rows)


def _told(spec: TaskSpec, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    code = fingerprint(spec)
    told: dict[str, Any] = {
        "identity": spec.identity,
        "name": spec.name,
        "effect": spec.effect.name.lower(),
        "policy": repr(spec.cache_policy) if spec.cache_policy is not None else "none: no two calls share a result",
        "expires": "never" if spec.cache_expiration is None else f"after {spec.cache_expiration}",
        "fingerprint": code.digest,
    }
    if parameters is not None:
        told |= _key(spec, parameters)
    told["parts"] = {"identity": spec.identity, **_parts(spec, code)}
    told["code"] = [part._asdict() for part in code.parts]
    return told


def _key(spec: TaskSpec, parameters: Mapping[str, Any]) -> dict[str, str]:
    """The key of the call with these arguments, or why there is none."""
    arguments = spec.bound((), parameters)
    run = context.TaskRun(ids.new_id(), spec.name, 1, dict(parameters))
    try:
        value = cache_key.value_of(spec, arguments.args, arguments.kwargs, run)
    except KapstanError as error:
        return {"key": f"none can be made: {error}"}
    if value is None:
        return {"key": "none: each run stands for itself" if spec.has_effect else "none: the call is not cached"}
    return {"key": cache_key.key_text(spec.identity, "args", value)}


def _parts(spec: TaskSpec, code: Fingerprint) -> dict[str, str]:
    """Each part of the cache policy, and what it looks at."""
    policy = spec.cache_policy
    told: dict[str, str] = {}
    for part in policy.policies if isinstance(policy, CompoundCachePolicy) else [] if policy is None else [policy]:
        if isinstance(part, Inputs):
            counted = [name for name in spec.signature.parameters if name not in part.exclude]
            left_out = f"; left out: {', '.join(part.exclude)}" if part.exclude else ""
            told["INPUTS"] = (", ".join(counted) or "no arguments") + left_out
        elif isinstance(part, TaskSource):
            told["TASK_SOURCE"] = code.digest
        else:
            told[repr(part).partition(".configure")[0]] = "what it makes of the call"
    return told
