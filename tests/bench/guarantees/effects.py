"""What the tasks of all systems do: a line in a file outside of every system, on the disk before the task goes on.

While the folder has a file ``gate``, a task stays in its effect: what is done to it then happens at a known moment.
"""

from __future__ import annotations

import os
import time
from pathlib import Path


def effect(task: str, user: str, amount: int) -> str:
    """Charge, refund or work: the receipt."""
    folder = Path(os.environ["BENCH_EFFECTS"])
    _write(folder / "effects", f"{task} {user} {amount} {os.getpid()}")
    while (folder / "gate").exists():
        time.sleep(0.005)
    _write(folder / "ended", f"{task} {user} {amount} {os.getpid()}")
    return f"{task} receipt"


def _write(path: Path, line: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, f"{line}\n".encode())
        os.fsync(file)
    finally:
        os.close(file)
