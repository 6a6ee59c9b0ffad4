"""Runs of a key in processes of their own, for the property test of the register.

The process is real, so that it lives and dies for real; what its run does at the register is the code of the engine,
called here in its place.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kapstan import task
from kapstan.backend import Backend
from kapstan.cache_policies import INPUTS
from kapstan.engine import task_run
from kapstan.engine.cache_key import key_of
from kapstan.engine.keyed import KeyedRun
from kapstan.errors import StoreUnavailable
from kapstan.ids import new_nonce
from kapstan.ports import Entry, Holder, Register, RegisterEvent, RegisterKey
from kapstan.states import EffectClass
from kapstan.tasks import Task

TASKS = {
    each: task(
        lambda order: order,
        name=f"property-{each.name}",
        effect=each.name.lower(),
        cache_policy=INPUTS,
        effect_horizon=0,
    )
    for each in EffectClass
}

idle: list[subprocess.Popen[bytes]] = []
"""Processes that no run has now; to start one takes longer than anything else here."""


def close() -> None:
    """End them."""
    while idle:
        idle[-1].kill()
        idle.pop().wait()


class LosesReplies:
    """A register whose next write lands while its writer hears nothing, if ``armed``."""

    def __init__(self, register: Register) -> None:
        self._register = register
        self.armed = False

    def change(self, *arguments: Any, **fields: Any) -> Entry | None:
        written = self._register.change(*arguments, **fields)
        if self.armed and written is not None:
            self.armed = False
            raise StoreUnavailable("the reply was lost")
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._register, name)


@dataclass(eq=False)
class Actor:
    """One run and its process.

    Attributes:
        stage: ``asks`` what it finds at the key; ``executes``; ``over``.
        epoch: of its intent.
        knows: how many writes the register had when this run last read or wrote it.
        acted: its effect has happened.
        waited: the epoch of the other run that it waits for; 0: none.
        looked: it may have written an intent.
        elsewhere: on another machine: nobody here sees whether its process lives.
    """

    run: KeyedRun
    register: LosesReplies
    process: subprocess.Popen[bytes]
    elsewhere: bool
    stage: str = "asks"
    epoch: int = 0
    knows: int = -1
    acted: bool = False
    waited: int = 0
    alive: bool = True
    looked: bool = False

    @property
    def holder(self) -> Holder:
        return self.run._holder  # pyright: ignore[reportPrivateUsage]

    @property
    def name(self) -> str:
        """The result of its code, and of nobody else's."""
        return self.holder.process

    @property
    def is_out_of_sight(self) -> bool:
        """It has ended, and nobody here can know."""
        return self.elsewhere and not self.alive

    def known(self) -> Entry | None:
        """What it last read or wrote."""
        return self.run._mine  # pyright: ignore[reportPrivateUsage]

    def die(self) -> None:
        """Its process is killed; if nobody can have heard of that, another run is given it."""
        if self.alive and not self.looked:
            idle.append(self.process)
        elif self.alive:
            self.process.kill()
            self.process.wait()
        self.alive, self.stage = False, "over"

    def leave(self) -> None:
        """Nobody asks for it any more."""
        if self.alive:
            idle.append(self.process)


def hire(backend: Backend, task: Task[..., Any], order: str, *, elsewhere: bool) -> Actor:
    """A process, with a run of ``task(order)`` that has not looked yet."""
    process = idle.pop() if idle else subprocess.Popen(["sleep", "3600"])
    execution = task_run.prepare(task.spec, (order,), {}, ())
    run = KeyedRun(execution, backend, RegisterKey(task.spec.identity, key_of(execution) or ""))
    holder = replace(run._holder, process=new_nonce(), pid=process.pid, started=_started(process.pid))  # pyright: ignore
    run._holder = replace(holder, machine="another") if elsewhere else holder  # pyright: ignore[reportPrivateUsage]
    register = LosesReplies(backend.register)
    run._register = register  # type: ignore[assignment]  # pyright: ignore
    return Actor(run, register, process, elsewhere)


def _started(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


@dataclass(frozen=True)
class Flying:
    """A write that its process had sent before it died, and that has not arrived yet."""

    actor: Actor
    event: RegisterEvent
    fields: dict[str, Any]
    deliver: Callable[[], Entry | None]
