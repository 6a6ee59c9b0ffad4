"""`kapstan dev`: the whole control plane on this machine, in one process, in the foreground."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import click
from rich.console import Console

from kapstan import settings
from kapstan.cli.apply import apply
from kapstan.cli.control import Control, serving, until_signal
from kapstan.cli.manifests import read
from kapstan.cli.seconds import SECONDS
from kapstan.cluster.local.cluster import LocalCluster
from kapstan.logging import configure_process
from kapstan.ports import Key, Manifest

_STYLE = {"Completed": "green", "Failed": "red", "Crashed": "red", "Cancelled": "yellow", "Running": "cyan"}


@click.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path(),
    help="Where the code of flows and tasks is. [default: here]",
)
@click.option(
    "-f",
    "--filename",
    "paths",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="Apply these files or directories first.",
)
@click.option("--grace", type=SECONDS, default=10.0, show_default=True, help="Seconds that processes get at the end.")
def command(directory: Path, paths: tuple[Path, ...], grace: float) -> None:
    """Run the control plane on this machine: no cluster, no server to install.

    Serves every Deployment, WorkPool, TaskWorker and FlowRun that `kapstan apply` has put into this home, with
    processes instead of pods, until Ctrl-C. Images are ignored: code comes from --dir. What Ctrl-C breaks off goes on,
    from what it has finished, at the next start.
    """
    current, directory = settings.current(), directory.resolve()
    console = Console(highlight=False)
    configure_process(current.log_level)
    lines = _Lines(console)
    manifests = [manifest for path in paths for manifest in read(path, current.namespace)]

    async def work() -> None:
        cluster = LocalCluster.from_settings(current)
        for manifest in manifests:
            console.print(await apply(cluster, manifest), soft_wrap=True)
        control = Control(current, cluster, directory, say=console.print, heard=lines.heard)
        stop = until_signal()
        console.print(f"Kapstan serves {current.home_path} with code from {directory}. Ctrl-C ends it.")
        await control.run(stop, grace=grace)
        console.print("Stopped. What was running goes on at the next start.")

    with serving(current, None):
        asyncio.run(work())


class _Lines:
    """One line for each thing that a person would want to know."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[Key, str] = {}

    def heard(self, key: Key, manifest: Manifest | None) -> None:
        line = "" if manifest is None else self._line(key, manifest)
        if line and self._shown.get(key) != line:
            self._console.print(line, soft_wrap=True)
        if manifest is None:
            self._shown.pop(key, None)
        else:
            self._shown[key] = line

    def _line(self, key: Key, manifest: Manifest) -> str:
        status = cast("Manifest", manifest.get("status") or {})
        if key.kind == "FlowRun" and status.get("phase"):
            phase, attempts = str(status["phase"]), cast("list[Manifest]", status.get("attempts") or [])
            shown = f"[{_STYLE.get(phase, 'default')}]{phase}[/]"
            attempt = f"  attempt {attempts[-1]['number']}" if attempts else ""
            why = f"  {status.get('message', '')}" if phase in ("Failed", "Crashed") else ""
            return f"FlowRun {key.name}  {status.get('name', '')}  {shown}{attempt}{why}"
        if key.kind == "TaskWorker" and status:
            return (
                f"TaskWorker {key.name}  {status.get('readyReplicas', 0)} of {manifest['spec']['replicas']} ready"
                f"{'  draining ' + str(status['drainingReplicas']) if status.get('drainingReplicas') else ''}"
            )
        return ""
