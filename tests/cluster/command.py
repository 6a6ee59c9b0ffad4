"""Runs one program to its end. Everything in this package that starts a short-lived program goes through here."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.cluster.errors import CommandFailed


def run(
    argv: Sequence[str | Path],
    *,
    text: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 60,
) -> str:
    """Run *argv* with *text* on its standard input and return its standard output.

    Raises CommandFailed where it cannot be started, ends with an error or takes longer than *timeout* seconds.
    """
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            env=env,
            cwd=cwd,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise CommandFailed(words, None, f"gave up after {timeout:g} s: {late.stdout!r} {late.stderr!r}") from late
    except OSError as missing:
        raise CommandFailed(words, 127, str(missing)) from missing
    if done.returncode != 0:
        raise CommandFailed(words, done.returncode, done.stdout + done.stderr)
    return done.stdout


def succeeds(argv: Sequence[str | Path], *, timeout: float = 20) -> bool:
    """True where the program ends without an error: for questions such as "does a docker daemon answer?"."""
    try:
        run(argv, timeout=timeout)
    except CommandFailed:
        return False
    return True
