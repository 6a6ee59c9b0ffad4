"""How long another session has been silent, by this supervisor's own clock and only while it saw Redis answer.

Every renewal counts on in Redis and leaves its number with its session. So an answer that showed number n, some seconds
ago, says that a session whose own number is still not above n has been silent since then. No wall clock is used, so
a clock that steps ends no lease. And a Redis that stalls ends none: a pause between two answers counts as a beat at
most, one of a lease or more, or another start of the server, lets the watch begin anew.
"""

from __future__ import annotations

from collections import deque

_MOST = 256  # answers that are remembered; above it, the older half is thinned


class Silence:
    """What one supervisor saw.

    Args:
        beat, lease: of this supervisor, in seconds.
    """

    def __init__(self, beat: float, lease: float) -> None:
        self._pause = min(beat, lease / 2)
        self._lease = lease
        self._era = b""
        self._answered_at = 0.0
        self._watched = 0.0
        self._answers: deque[tuple[float, int]] = deque()

    def answered(self, now: float, number: int, era: bytes) -> None:
        """A renewal was answered at ``now`` (monotonic), and was the ``number``-th of the namespace."""
        passed = now - self._answered_at
        if era != self._era or passed >= self._lease:
            self._era = era
            self._answers.clear()
        self._watched += min(passed, self._pause)
        self._answered_at = now
        self._answers.append((self._watched, number))
        if len(self._answers) > _MOST:
            kept = list(self._answers)
            self._answers = deque(kept[: _MOST // 2 : 2] + kept[_MOST // 2 :])

    def of(self, number: int) -> float:
        """Seconds for which a session whose last renewal was the ``number``-th has been silent, as far as was seen."""
        return next((self._watched - since for since, shown in self._answers if shown >= number), 0.0)

    @property
    def last(self) -> int:
        """The number of the last renewal that was answered; -1 if the watch has not begun."""
        return self._answers[-1][1] if self._answers else -1
