"""The quickstart's background tasks: what a web application delays and a TaskWorker executes."""

from __future__ import annotations

import os
import time

from sink import note

from kapstan import task

TASK_SECONDS = float(os.environ.get("QUICKSTART_TASK_SECONDS", "0.5"))


@task
def send_mail(to: str) -> str:
    """Slow work that nobody should wait for."""
    time.sleep(TASK_SECONDS)
    note(f"mail to={to}")
    return f"sent to {to}"


@task
def add(x: int, y: int) -> int:
    """Quick work."""
    return x + y
