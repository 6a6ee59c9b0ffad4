"""What only a WorkPool does: give places, and count what it has launched."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from kapstan.ports import Key
from kapstan.reconcile.kinds.work_pool.places import Places, Tokens
from kapstan.reconcile.plan import Acting


@dataclass(frozen=True, slots=True)
class AskPlace:
    """A run is ready for its next attempt: line up for a place in the pool."""

    run: Key
    pool: Key

    async def perform(self, acting: Acting) -> None:
        run = acting.world.cache.brief(self.run)
        if run is not None and acting.world.memory(Places).ask(run, self.pool):
            acting.enqueue(self.pool)


@dataclass(frozen=True, slots=True)
class LeaveLine:
    """A run wants no place any more: the pool may give it to another."""

    run: Key

    async def perform(self, acting: Acting) -> None:
        pool = acting.world.memory(Places).leave(self.run)
        if pool is not None:
            acting.enqueue(pool)


@dataclass(frozen=True, slots=True)
class Grant:
    """Give a waiting run a place in its pool."""

    run: Key

    async def perform(self, acting: Acting) -> None:
        if acting.world.memory(Places).grant(self.run):
            acting.enqueue(self.run)


@dataclass(frozen=True, slots=True)
class SpendTokens:
    """Note what is left of the pool's launches."""

    pool: Key
    left: float
    at: datetime

    async def perform(self, acting: Acting) -> None:
        acting.world.memory(Places).tokens[self.pool] = Tokens(self.left, self.at)
