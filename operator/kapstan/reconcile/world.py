"""What a loop can reach: the ports it was given, its cache, and what it remembers.

Made by the loop; handed to the reconcilers, which hold no state of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar, cast

from kapstan.ports import BackgroundRuns, Cluster, Key, Launcher, Queue, RunRecords
from kapstan.reconcile.cache import Cache
from kapstan.resources import Resource

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R", bound=Resource)


@dataclass(slots=True)
class World:
    """The surroundings of one loop; ``records``, ``queues`` and ``runs`` give those of a namespace.

    ``only``: the one WorkPool that this loop serves; None: everything.
    """

    cluster: Cluster
    launchers: Mapping[str, Launcher]
    worker_launcher: Launcher | None
    records: Callable[[str], RunRecords]
    queues: Callable[[str], Queue]
    threads: Executor
    only: Key | None = None
    runs: Callable[[str], BackgroundRuns] | None = None
    cache: Cache = field(default_factory=Cache)
    _memory: dict[type, Any] = field(default_factory=dict[type, Any])

    def memory(self, type_: type[T]) -> T:
        """What a kind remembers between two looks and may lose: one object of its own class, empty after a restart.

        Used on the event loop's thread only.
        """
        if type_ not in self._memory:
            self._memory[type_] = type_()
        return cast("T", self._memory[type_])

    def launcher(self, pool_type: str) -> Launcher:
        """The launcher of a pool's type; of a pool that is gone, the first one."""
        return self.launchers.get(pool_type) or next(iter(self.launchers.values()))

    async def read(self, key: Key, model: type[R]) -> R | None:
        """Another resource, as the cache knows it or as it is stored; None: it is not there.

        Raises:
            InvalidResource: it breaks its model's rules.
        """
        manifest = self.cache.get(key) or await self.cluster.get(key)
        return model.from_dict(manifest) if manifest is not None else None

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A synchronous port, on a thread."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, lambda: function(*args, **kwargs))
