"""A flow with an effect that is not repeated; which machine its processes believe to be on, the environment says."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from kapstan import flow, task
from kapstan.runs import deaths

deaths._machine = lambda: os.environ["MACHINE"]  # pyright: ignore[reportPrivateUsage]


def done(line: str) -> str:
    """The effect, after which an attempt that has a gate goes no further."""
    with Path(os.environ["SINK"]).open("a") as sink:
        sink.write(f"{line}\n")
    if gate := os.environ["REACHED"]:
        Path(gate).write_text(str(os.getpid()))
        threading.Event().wait()
    return line


@task(effect="at_most_once")
def charge() -> str:
    return done("charge")


@task(effect="idempotent")
def book() -> str:
    return done("book")


@flow
def once() -> str:
    return charge()


@flow
def again() -> str:
    return book()
