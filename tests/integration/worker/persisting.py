"""A worker that dies, once, when it has stored a result that is persisted, and has told nobody."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

from tests.integration.worker.served import tell

from kapstan import task
from kapstan.runs import persisted

_settled = persisted.settled


def settled(*arguments: Any) -> Any:
    outcome = _settled(*arguments)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(os.environ["KAPSTAN_TEST_DIED"], os.O_CREAT | os.O_EXCL))
        tell("dies", "stored", os.getpid())
        os.kill(os.getppid() if os.environ["KAPSTAN_TEST_VICTIM"] == "worker" else os.getpid(), signal.SIGKILL)
        signal.pause()  # it ends with its supervisor
    return outcome


if "KAPSTAN_TEST_DIED" in os.environ:  # in a worker
    persisted.settled = settled  # type: ignore[assignment]


@task(persist_result=True)
def kept(tag: str, size: int) -> str:
    tell("ran", tag, os.getpid())
    return "x" * size
