"""The tasks that the bench's workers serve."""

from __future__ import annotations

import os
import socket
import time

from kapstan import task


@task
def noop(mark: bool = False) -> float | None:
    """Nothing; with ``mark`` the time at which it ran, by the clock that all processes of a machine share."""
    return time.monotonic() if mark else None


@task
def take(payload: str) -> None:
    """What queued runs with a payload name; no worker executes it."""


@task
def nap(seconds: float) -> None:
    time.sleep(seconds)


@task
def visit(path: str) -> None:
    """Tell the bench, which listens at ``path``, this process' id; wait until it lets go."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(path)
        line.sendall(str(os.getpid()).encode())
        line.recv(1)
