"""Starts a peer's own worker program, and leaves nothing of it behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.worker import REPOSITORY


@contextmanager
def running(program: str, *arguments: str, log: Path) -> Iterator[None]:
    """``program`` of this Python's environment, with its children; killed at the end of the block."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name(program)), *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": f"{REPOSITORY / 'operator'}:{REPOSITORY}"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
