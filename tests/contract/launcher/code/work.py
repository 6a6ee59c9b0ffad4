"""What the launchers of the suite start: flows that end in each way, and a task to serve."""

from __future__ import annotations

import threading

from kapstan import flow, task


@flow
def quick(x: int = 1) -> int:
    return x


@flow
def fails() -> None:
    raise ValueError("no")


@flow
def waits() -> None:
    threading.Event().wait(120)


@task
def double(x: int) -> int:
    return 2 * x
