"""Flows of six tasks that tests end in the middle; tasks and flows tell a sink of the test how far they are.

A flow tells what has returned to it: by then the outcome is in its journal, and the test, which may hold the answer,
knows where the flow stands.
"""

from __future__ import annotations

import asyncio
import os

from background import tell

from kapstan import flow, get_run_logger, runtime, task


@task
def same(sink: str, name: str) -> str:
    """One effect, tagged with the call's own id: the arguments of all calls are equal."""
    tell(sink, name, str(runtime.task_run.id))
    return os.environ["POD_NAME"]


@task
def step(sink: str, name: str, number: int) -> str:
    tell(sink, "begins", f"{name}-{number}")
    if name.startswith("caught") and number == 1:
        raise ValueError(f"refused {number}")
    return os.environ["POD_NAME"]


@task
async def async_step(sink: str, name: str, number: int) -> str:
    await asyncio.to_thread(tell, sink, "begins", f"{name}-{number}")
    return os.environ["POD_NAME"]


@flow
def loop(sink: str, name: str) -> list[str]:
    """Six calls with equal inputs."""
    pods: list[str] = []
    while len(pods) < 6:
        pods.append(same(sink, name))
        tell(sink, "returned", f"{name}-after-{len(pods)}")
    return pods


@flow
async def gathered(sink: str, name: str) -> list[str]:
    """Six calls at once."""

    async def one(number: int) -> str:
        pod = await async_step(sink, name, number)
        await asyncio.to_thread(tell, sink, "returned", f"{name}-after-{number}")
        return pod

    return await asyncio.gather(*(one(number) for number in range(6)))


@flow
def caught(sink: str, name: str) -> list[str]:
    """Six calls, of which the second fails; the flow catches that."""
    told: list[str] = []
    for number in range(6):
        try:
            told.append(step(sink, name, number))
        except ValueError as error:
            told.append(f"{type(error).__name__}: {error}")
        tell(sink, "returned", f"{name}-after-{number + 1}")
    return told


@flow
def one(sink: str, name: str) -> str:
    """A single effect."""
    return step(sink, name, 0)


@task(effect="at_most_once")
def charge(sink: str, name: str) -> str:
    get_run_logger().warning("about to charge %s", name)
    tell(sink, "begins", name)
    return os.environ["POD_NAME"]


@task(effect="idempotent")
def book(sink: str, name: str) -> str:
    tell(sink, "begins", name)
    return os.environ["POD_NAME"]


@flow
def charges(sink: str, name: str) -> str:
    """An effect that must not happen twice."""
    return charge(sink, name)


@flow
def books(sink: str, name: str) -> str:
    """An effect that its receiver knows again."""
    return book(sink, name)


@flow(retries=1)
def hungry(megabytes: int) -> int:
    return len(b"x" * (megabytes << 20))
