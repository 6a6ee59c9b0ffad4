"""How many runs one claim should bring: as many as fit into 5 ms, by the durations seen so far.

A pure calculation; the executor feeds it. A long run counts at once and fades within a few claims: to claim too
little costs a round trip, to claim too much makes others wait (the guard cures that within 20 ms, at the price of
giving back).
"""

from __future__ import annotations

from kapstan.worker.board import MAX_BATCH

BUDGET = 0.005
"""Seconds of work that a claim may bring."""
LONG = 0.02
"""Seconds after which a run is long: it counts alone, and nothing waits behind it. Less may be a process that the
machine did not let run."""
_FADE = 0.5


class Pace:
    """An average of durations that jumps up at once and decays slowly."""

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds = BUDGET  # nothing is known yet: one at a time

    def observe(self, seconds: float, runs: int, longest: float) -> None:
        """``runs`` runs took ``seconds`` together, the longest of them ``longest``."""
        mean = longest if longest >= LONG else seconds / runs
        if mean >= self._seconds:
            self._seconds = mean
        else:
            self._seconds += _FADE * (mean - self._seconds)

    @property
    def want(self) -> int:
        """Runs to claim next."""
        return max(1, min(MAX_BATCH, int(BUDGET / max(self._seconds, 1e-9))))

    @property
    def brisk(self) -> bool:
        """Whether runs are so short that the next claim should be under way while a batch runs."""
        return self._seconds < BUDGET
