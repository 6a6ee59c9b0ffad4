"""Tasks with effects, and processes that execute them and die where they are told to.

An effect is a line in a file outside of everything, on the disk before the task goes on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from kapstan import backend, flow, task
from kapstan.context import get_run_context
from kapstan.engine import flow_engine
from kapstan.errors import Parked, ParkedRun
from kapstan.locking import FileSystemLockManager
from kapstan.settings import Settings
from kapstan.states import EffectClass
from kapstan.tasks import Task

CALLS = ("get", "put", "create_version", "replace")
"""Of the store: what a keyed run reaches it by."""


class ByInputs:
    """A cache policy: calls with equal arguments are one."""

    key_storage = isolation_level = lock_manager = None  # type: Any

    def compute_key(self, task_ctx: Any, inputs: Any, flow_parameters: Any) -> str:
        return repr(sorted(inputs.items()))


def keyed(subject: Task[..., Any], **changed: Any) -> Task[..., Any]:
    """The task with a key of its arguments."""
    copy = subject.with_options()
    copy.spec = replace(copy.spec, cache_policy=ByInputs(), **changed)
    return copy


def effect(folder: str, order: str) -> int:
    """Do it; how often it was done for this order before."""
    run = get_run_context()
    line = json.dumps([order, run.idempotency_key, run.fencing_token, run.attempt, os.getpid()])
    with (Path(folder) / "effects").open("a") as file:
        file.write(f"{line}\n")
        file.flush()
        os.fsync(file.fileno())
    return len(effects(folder, order)) - 1


def effects(folder: str | Path, order: str = "") -> list[list[Any]]:
    """[order, key, token, attempt, pid] of what was done, in order."""
    path = Path(folder) / "effects"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if not order or line[0] == order]


@task(name="keyed-charge")
def charge(folder: str, order: str, size: int = 0) -> list[Any]:
    effect(folder, order)
    if len(effects(folder)) == int(os.environ.get("DIES_IN_BODY", "0")):
        os.kill(os.getpid(), signal.SIGKILL)
    if gate := os.environ.get("GATE"):
        Path(gate).read_text()
    return [order, "x" * size]


def of_class(name: str, locks: str = "") -> Task[..., Any]:
    subject = keyed(charge, effect=EffectClass[name.upper()], effect_horizon=0.0)
    if locks:
        subject.spec.cache_policy.lock_manager = FileSystemLockManager(locks)
    return subject


@flow(name="keyed-shop")
def shop(folder: str, order: str, name: str) -> list[Any]:
    return [of_class(name)(folder, f"{order}{letter}") for letter in "abc"]


def die_at(number: int, position: str) -> None:
    """SIGKILL at the call of the store with this number (from 1): before it is sent, or after it was answered."""
    store: Any = backend.current().store
    made = 0

    def dying(call: Any) -> Any:
        def counted(*args: Any) -> Any:
            nonlocal made
            made += 1
            if made == number and position == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            answer = call(*args)
            if made == number and position == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return counted

    for name in CALLS:
        setattr(store, name, dying(getattr(store, name)))


def execute(order: dict[str, Any]) -> Any:
    """What one process does: a call; its result, or ``parked``."""
    backend.use(Settings(**order["settings"]))
    backend.current().store_time()
    if order.get("die_at"):
        die_at(*order["die_at"])
    try:
        if "flow" in order:
            parameters = {"folder": order["folder"], "order": order["order"], "name": order["class"]}
            return flow_engine.run(flow_engine.make_run(shop.spec, order["flow"], parameters), attempt=1).result()
        subject = of_class(order["class"], order.get("locks", ""))
        return subject(order["folder"], order["order"], order.get("size", 0))
    except (ParkedRun, Parked):
        return "parked"


def serve() -> None:
    """Fork a process for each line of the input; print how it ended: [exit code, result]."""
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        heard, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(heard)
                os.environ.update(order.get("environment", {}))
                os.write(told, json.dumps(execute(order)).encode())
                code = 0
            except BaseException:  # noqa: BLE001
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(told)
        if order.get("leave"):
            print(json.dumps([pid, None]), flush=True)
            continue
        with os.fdopen(heard) as answer:
            said = answer.read()
        _, status = os.waitpid(pid, 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), json.loads(said) if said else None]), flush=True)


if __name__ == "__main__":
    serve()
