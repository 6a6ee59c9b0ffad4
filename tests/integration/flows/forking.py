"""Flows and tasks whose code forks a process that comes back into them; for ``test_forks``."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
from typing import Any

from kapstan import flow, task


def note(text: str) -> None:
    with open(os.environ["SINK"], "a") as sink:
        sink.write(f"{text}\n")


def forked() -> bool:
    """Fork, and wait for the child; True in the child."""
    pid = os.fork()
    if pid == 0:
        return True
    _, status = os.waitpid(pid, 0)
    note(f"child ended with {os.waitstatus_to_exitcode(status)}")
    return False


@task
def after(name: str) -> None:
    note(name)


@task
async def after_async(name: str) -> None:
    note(name)


@task
def forks_in_a_task() -> str:
    if forked():
        note("child's own work")
    return "result"


@task
async def forks_in_an_async_task() -> str:
    if forked():
        await asyncio.sleep(0)
    return "result"


@flow
def returns() -> str:
    after("before")
    forked()
    return "result"


@flow
def raises() -> None:
    if forked():
        raise KeyError("the child's")


@flow
def calls() -> None:
    forked()
    after("after")


@flow
def submits() -> None:
    forked()
    after.submit("after").result()


@flow
def calls_a_flow() -> None:
    forked()
    inner()


@flow
def inner() -> None:
    after("after")


@flow
def exits() -> None:
    if forked():
        sys.exit(7)


@flow
def in_a_task() -> None:
    assert forks_in_a_task() == "result"
    after("after")


@flow
def in_a_submitted_task() -> None:
    assert forks_in_a_task.submit().result() == "result"
    after("after")


@flow
async def returns_async() -> None:
    forked()


@flow
async def calls_async() -> None:
    forked()
    await after_async("after")


@flow
async def sleeps_async() -> None:
    if forked():
        await asyncio.sleep(0.01)
    await after_async("after")


@flow
async def lets_the_loop_go_on() -> None:
    """The sibling is ready to go on when the process is forked; its next step must be made once."""

    async def sibling() -> None:
        for step in range(3):
            note(f"sibling {step}")
            await asyncio.sleep(0)

    other = asyncio.create_task(sibling())
    await asyncio.sleep(0)
    never = asyncio.get_running_loop().create_future()
    if forked():
        await never
    await other


@flow
async def in_an_async_task() -> None:
    assert await forks_in_an_async_task() == "result"
    await after_async("after")


@flow
def in_a_condition() -> None:
    fails_once()
    after("after")


_runs: list[int] = []


def condition(*_: Any) -> bool:
    forked()
    return True


@task(retries=1, retry_condition_fn=condition)
def fails_once() -> None:
    _runs.append(1)
    note(f"run {len(_runs)}")
    if len(_runs) == 1:
        raise ValueError("first")


def target() -> None:
    after("in the child")


@flow
def multiprocesses() -> None:
    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    process.join()
    note(f"child ended with {process.exitcode}")
    after("after")
