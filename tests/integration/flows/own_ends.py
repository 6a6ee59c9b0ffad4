"""Flows that end in ways of their own, or start processes; for ``test_own_ends``."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

from kapstan import flow, task


def note(text: str) -> None:
    with open(os.environ["SINK"], "a") as sink:
        sink.write(f"{text}\n")


def at_the_gate() -> None:
    with open(os.environ["REACHED"], "w") as reached:
        reached.write(str(os.getpid()))


class Odd(BaseException):
    pass


@flow
def leaves() -> None:
    sys.exit("bad arguments")


@flow
def exits_at_once(code: int) -> None:
    os._exit(code)


@flow
def closes_every_file() -> None:
    counted(0)
    os.closerange(3, 256)
    counted(1)


@task
def counted(step: int) -> None:
    note(f"step {step}")


@flow
def three_steps() -> None:
    for step in range(3):
        counted(step)
        if step == 1 and not os.path.exists(os.environ["SINK"] + ".again"):
            open(os.environ["SINK"] + ".again", "w").close()
            os._exit(0)


@flow
def interrupts_itself() -> None:
    raise KeyboardInterrupt


@flow
def raises_odd() -> None:
    raise Odd("odd")


@flow
async def cancels_itself() -> None:
    this = asyncio.current_task()
    assert this is not None
    this.cancel()
    await asyncio.sleep(10)


@flow
def starts_a_daemon() -> None:
    """A process of a session of its own, forked twice, that would have its effect after two seconds."""
    code = "import os, time; os.fork() and os._exit(0); time.sleep(2); open(os.environ['SINK'], 'a').write('effect\\n')"
    subprocess.run([sys.executable, "-c", code], start_new_session=True, check=True)
    at_the_gate()
    time.sleep(60)


@task
def long() -> None:
    at_the_gate()
    time.sleep(30)


@flow
def submits() -> None:
    long.submit().result()


if __name__ == "__main__":
    submits()
