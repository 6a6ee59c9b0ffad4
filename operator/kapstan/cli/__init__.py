"""``kapstan ...``: one module per command, loaded when that command is called.

A module ``kapstan/cli/<command>.py`` (dashes as underscores) holds a click command or group called ``command``.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import signal
import sys
from pathlib import Path

import click

from kapstan.errors import ConfigurationError, KapstanError
from kapstan.states import ExitCode

TERMINATION_LOG = Path("/dev/termination-log")
"""In a container, Kubernetes puts what stands here into the pod's status; the operator shows it as the diagnosis."""

COMMANDS = {
    "apply": "Create or change resources from YAML files.",
    "config": "Show the settings.",
    "crds": "Write the custom resource definitions.",
    "delete": "Delete a resource.",
    "dev": "Run the control plane on this machine: no cluster, no server to install.",
    "flow-run": "List, inspect, cancel, resume, retry and delete flow runs.",
    "gc": "Remove flow runs that ended long ago, and values that nobody can reach.",
    "get": "Show resources.",
    "operator": "Run the operator in a cluster.",
    "queue": "Submit again what Redis has lost.",
    "run": "Execute one attempt of a flow run (what a Job or a launcher starts).",
    "scale": "Change how many replicas a TaskWorker has.",
    "server": "The embedded Redis of this home; ACL users for a Redis of your own.",
    "task": "Serve tasks: run what `.delay()` submitted. Inspect one: what makes up its keys.",
    "task-run": "List, inspect, cancel, retry and delete background runs.",
    "worker": "Run the deployments of a process work pool on this machine.",
}


class _Commands(click.Group):
    """Loads a command's module when it is asked for, so that `kapstan --help` is quick and extras stay extras."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click\'s signature)
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  (click\'s signature)
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"kapstan.cli.{cmd_name.replace('-', '_')}")
        return module.command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  (click\'s signature)
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            raise click.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("kapstan"):
                raise
            raise click.ClickException(
                f"`kapstan {args[0]}` needs the package {error.name!r}: install kapstan[operator]"
            ) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="kapstan", prog_name="kapstan")
def cli() -> None:
    """Kapstan runs Python tasks and flows as pods and never starts over."""


_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)
"""What a write to standard output may fail with."""


def main() -> None:
    """The console script: errors of ours end with one line, not with a traceback."""
    _end_when_asked()
    _make_writable()
    try:
        cli(prog_name="kapstan")
    except ConfigurationError as error:
        click.echo(f"Error: {error}", err=True)
        if TERMINATION_LOG.exists():
            with contextlib.suppress(OSError):
                TERMINATION_LOG.write_text(str(error))
        sys.exit(ExitCode.USAGE)
    except KapstanError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        if error.filename is None and error.errno in _UNWRITABLE:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (what is left in the old one cannot be written at exit)
            click.echo(f"Error: the output cannot be written ({error.strerror})", err=True)
            sys.exit(1)
        if error.filename is None:
            raise
        click.echo(f"Error: {error.filename} cannot be used ({error.strerror})", err=True)
        sys.exit(ExitCode.USAGE)


def _end_when_asked() -> None:
    """Until a command has a handler of its own, SIGTERM ends this process: the kernel drops it where the first process
    of a container has none, and the pod would stay until its grace period is over."""

    def end(*_: object) -> None:
        os._exit(ExitCode.HANDED_BACK)

    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, end)


def _make_writable() -> None:
    """A terminal that cannot show a name's letters gets them escaped; who has closed the output wants none."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (for as long as the process lives)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
