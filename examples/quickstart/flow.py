"""The quickstart's flow: an order goes through six steps, each slow enough to be killed in the middle.

Each step notes its effect in a sink (`QUICKSTART_SINK`: a file, or an http:// address that takes one line per POST), so
that anybody can count how often it really happened. Kill the process between two steps and look: what was done before
is
not done again.
"""

from __future__ import annotations

import os
import time

from sink import note

from kapstan import flow, task

STEP_SECONDS = float(os.environ.get("QUICKSTART_STEP_SECONDS", "1"))


@task(task_run_name="{name}")
def step(name: str, order: int) -> str:
    """One step of the work. The effect comes last, so a step that was killed half-way left none."""
    time.sleep(STEP_SECONDS)
    note(f"{name} order={order}")
    return f"{name} done"


@flow(log_prints=True)
def fulfil(order: int = 1) -> list[str]:
    """Six steps, one after the other."""
    done: list[str] = []
    for name in ("reserve", "charge", "pick", "pack", "ship", "thank"):
        done.append(step(name, order))
        print(done[-1])
    return done


if __name__ == "__main__":
    fulfil(order=1)
