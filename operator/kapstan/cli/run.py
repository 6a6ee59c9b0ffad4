"""``kapstan run``: one attempt of a flow run. The contract that Jobs and launchers rely on stands in the help below."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any, cast

import click

from kapstan import backend as backends
from kapstan import ids, settings
from kapstan.errors import ConfigurationError
from kapstan.ports import launch
from kapstan.ports.launch import FlowRunLaunch
from kapstan.runs import parameters as stored_parameters
from kapstan.specs import FlowSpec
from kapstan.states import ExitCode
from kapstan.worker import entrypoints, flow_process
from kapstan.worker.flow_process import Attempt


@click.command()
@click.argument("entrypoint", envvar=launch.ENTRYPOINT, metavar="MODULE:FLOW | FILE.PY:FLOW")
@click.option("--run-id", help="Id of the flow run. [default: a new one]")
@click.option("--attempt", type=click.IntRange(min=1), default=1, show_default=True, help="Number of this attempt.")
@click.option("--parameters", envvar=launch.PARAMETERS, help="Parameters of the flow, a JSON object.")
@click.option(
    "-p",
    "--param",
    "single",
    multiple=True,
    metavar="NAME=VALUE",
    help="One parameter, laid over --parameters: JSON, or else a text. May be given several times.",
)
@click.option("--parameters-ref", default="", help="Key of further ones in the store, laid over these.")
@click.option("--again", is_flag=True, help="Go on with a run that failed: what failed is executed again.")
@click.option("--name", envvar=launch.RUN_NAME, default="", help="Name of the run. [default: two words]")
@click.option("--deployment", envvar=launch.DEPLOYMENT, default="", help="Deployment that it was made from.")
def command(**options: Any) -> None:
    """Execute one attempt of a flow run (what a Job or a launcher starts).

    Takes the run's lease, goes on from the outcomes that earlier attempts left in its journal, and writes how this
    attempt ended. SIGTERM hands the run back at once. Exits with 0 for Completed, 1 for Failed (also a flow
    that cannot be imported), Cancelled or parked, 2 for a wrong command line, 75 if a later attempt holds the run or
    it was handed back, 70 if the end could not be recorded.
    """
    for number in (signal.SIGTERM, signal.SIGINT):  # nothing has begun yet
        signal.signal(number, lambda _got, _frame: os._exit(ExitCode.HANDED_BACK))
    current = settings.current()  # what is wrong with it is said here, before a run is made
    if not current.s3_endpoint:
        settings.make_home(current.home_path)
    asked = read(**options)
    _split(asked.entrypoint)

    def load() -> tuple[FlowSpec, dict[str, Any]]:
        key = asked.parameters_ref
        stored = stored_parameters.read(backends.current(), key) if key else {}
        return load_flow(asked.entrypoint), {**asked.parameters, **stored}

    flow_process.execute(
        Attempt(
            asked.run_id,
            asked.attempt,
            asked.entrypoint,
            name=asked.name,
            deployment=asked.deployment,
            again=asked.again,
        ),
        load,
    )


def read(
    *,
    entrypoint: str,
    run_id: str | None,
    attempt: int,
    parameters: str | None,
    single: tuple[str, ...],
    parameters_ref: str,
    again: bool,
    name: str,
    deployment: str,
) -> FlowRunLaunch:
    """What the options and this process' environment ask for.

    Raises:
        ConfigurationError: an option that cannot be read.
    """
    return FlowRunLaunch(
        entrypoint,
        _run_id(run_id),
        attempt,
        settings.current().namespace,
        name=name,
        deployment=deployment,
        parameters={**_object(parameters), **dict(map(named, single))},
        parameters_ref=parameters_ref,
        again=again,
    )


def load_flow(entrypoint: str, *, module_name: str = "") -> FlowSpec:
    """Import the flow that ``entrypoint`` names; this runs the user's code.

    Args:
        module_name: under which name to import a file, where it is known: the names of its tasks follow from it.

    Raises:
        ConfigurationError: there is no such module, or no such flow in it; the message names those that are there.
        Exception: whatever the import raises.
    """
    from kapstan.flows import spec_of

    place, name = _split(entrypoint)
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module: Any = entrypoints.import_place(place, module_name)
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part, None)
    spec = spec_of(value)
    if spec is None:
        there = vars(cast("object", module))
        has = ", ".join(sorted(known for known, other in there.items() if spec_of(other))) or "none"
        raise ConfigurationError(f"{entrypoint!r}: {name} is no flow of {module.__name__}; its flows: {has}")
    return spec


def _split(entrypoint: str) -> tuple[str, str]:
    place, _, name = entrypoint.rpartition(":")
    if not place or not name:
        raise ConfigurationError(f"{entrypoint!r}: give module:flow or file.py:flow, such as flows/etl.py:main")
    return place, name


def _run_id(text: str | None) -> ids.RunId:
    if text is None:
        return ids.new_id()
    try:
        return ids.parse(text)
    except ValueError as error:
        raise ConfigurationError(f"--run-id: {error}") from None


def named(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigurationError(f"--param {text!r}: write NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _object(text: str | None) -> dict[str, Any]:
    try:
        value: Any = json.loads(text or "{}")
    except ValueError as error:
        raise ConfigurationError(f"--parameters {text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigurationError(f'--parameters {text!r}: give a JSON object, such as {{"x": 1}}')
    return cast("dict[str, Any]", value)
