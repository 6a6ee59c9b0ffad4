"""An application without workers: ``python background_app.py left`` leaves a run behind, ``next`` is its next start."""

from __future__ import annotations

import os
import sys
import threading

from kapstan import task


def effect(what: str) -> None:
    with open(os.environ["SINK"], "a") as sink:
        sink.write(f"{what}\n")


@task
def square(x: int) -> int:
    effect(f"square {x}")
    return x * x


@task
def stuck() -> str:
    if os.environ.get("REACHED"):
        with open(os.environ["REACHED"], "w") as fifo:
            fifo.write(f"{os.getpid()}\n")
        threading.Event().wait()
    effect("stuck")
    return "done"


@task(retries=1, retry_delay_seconds=0.05)
async def flaky() -> int:
    effect("flaky")
    if not os.environ.get("SECOND"):
        os.environ["SECOND"] = "1"
        raise ValueError("first")
    return 2


if __name__ == "__main__":
    if sys.argv[1] == "left":
        print(stuck.submit().task_run_id, flush=True)
        threading.Event().wait()
    elif sys.argv[1] == "next":
        from kapstan import Future

        print(square.submit(3).result(timeout=60), Future(sys.argv[2]).result(timeout=60))
    else:
        print(square.map([1, 2, 3]).result(timeout=60), flaky.submit().result(timeout=60))
