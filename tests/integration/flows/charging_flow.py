"""A flow with an effect that is not repeated; which machine its processes believe to be on, the environment says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from pathlib import Path

from kapstan import flow, get_run_logger, task
from kapstan.errors import StoreUnavailable
from kapstan.runs import deaths
from kapstan.store.local import LocalStore

deaths._machine = lambda: os.environ["MACHINE"]  # pyright: ignore[reportPrivateUsage]


def happens(line: str) -> None:
    with Path(os.environ["SINK"]).open("a") as sink:
        sink.write(f"{line}\n")


def done(line: str) -> str:
    """The effect, after which an attempt that has a gate goes no further."""
    get_run_logger().warning("about to do %s\nwith a second line", line)
    happens(line)
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


begun = asyncio.Event()


@task(effect="idempotent", result_storage_key="the order")
async def send() -> str:
    happens("send")
    if os.environ["MACHINE"] == "machine 1":
        begun.set()
        await asyncio.Event().wait()
    return "sent"


def away(*_: object) -> None:
    raise StoreUnavailable("the store takes no more writes")


@flow
async def gives_up() -> str:
    """On the first machine it breaks the task off, while the store takes no writes, and completes."""
    sending = asyncio.create_task(send())
    if os.environ["MACHINE"] == "machine 1":
        await begun.wait()
        setattr(LocalStore, "replace", away)  # noqa: B010  (in this process only)
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending
        return "given up"
    return await sending
