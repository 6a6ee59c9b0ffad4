"""The task of the chaos runs: an effect, durable before anything else happens, and some work after it."""

from __future__ import annotations

import os
import time

from kapstan import task


@task
def effect(tag: str, seconds: float) -> int:
    """Append ``tag pid`` to the file ``EFFECTS``, then work for ``seconds``; the pid."""
    descriptor = os.open(os.environ["EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{tag} {os.getpid()}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    time.sleep(seconds)
    return os.getpid()
