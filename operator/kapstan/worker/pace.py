"""How many runs one claim should bring: as many as fit into 5 ms, by the durations seen so far of each task.

A pure calculation; the executor feeds it. A long run counts at once and fades within a few claims: to claim too
little costs a round trip, to claim too much makes others wait (the guard cures that within 20 ms, at the price of
giving back). Each task has a pace of its own: a long one makes no short one slow.
"""

from __future__ import annotations

from collections.abc import Mapping

from kapstan.worker.board import MAX_BATCH

BUDGET = 0.005
"""Seconds of work that a claim may bring."""
LONG = 0.02
"""Seconds after which a run is long: it counts alone, and nothing waits behind it. Less may be a process that the
machine did not let run."""
_FADE = 0.5


class Pace:
    """Averages of durations that jump up at once and decay slowly.

    Attributes:
        most: how many runs of each task that was seen fill a claim alone; never changed in place.
    """

    __slots__ = ("_seconds", "most")

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self.most: Mapping[str, int] = {}

    def observe(self, task: str, seconds: float, runs: int, longest: float) -> None:
        """``runs`` runs of ``task`` took ``seconds`` together, the longest of them ``longest``."""
        mean = longest if longest >= LONG else seconds / runs
        before = self._seconds.get(task, BUDGET)  # nothing is known at first: one at a time
        after = mean if mean >= before else before + _FADE * (mean - before)
        self._seconds[task] = after
        most = max(1, min(MAX_BATCH, int(BUDGET / max(after, 1e-9))))
        if self.most.get(task) != most:
            self.most = {**self.most, task: most}

    def brisk(self, task: str) -> bool:
        """Whether its runs are so short that the next claim should be under way while a batch of them runs."""
        return self._seconds.get(task, BUDGET) < BUDGET
