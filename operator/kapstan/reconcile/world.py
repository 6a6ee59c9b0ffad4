"""What a loop can reach: the ports it was given, what it has been told, what it remembers.

Made by the loop; shared by the part that looks and the part that acts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from kapstan.ports import Cluster, Launcher, Queue, RunRecords
from kapstan.reconcile.cache import Cache
from kapstan.reconcile.memory import Memory

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(slots=True)
class World:
    """The surroundings of one loop; ``records`` and ``queues`` give those of a namespace."""

    cluster: Cluster
    launchers: Mapping[str, Launcher]
    worker_launcher: Launcher | None
    records: Callable[[str], RunRecords]
    queues: Callable[[str], Queue]
    threads: Executor
    cache: Cache = field(default_factory=Cache)
    memory: Memory = field(default_factory=Memory)

    def launcher(self, pool_type: str) -> Launcher:
        """The launcher of a pool's type; of a pool that is gone, the first one."""
        return self.launchers.get(pool_type) or next(iter(self.launchers.values()))

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A synchronous port, on a thread."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, lambda: function(*args, **kwargs))
