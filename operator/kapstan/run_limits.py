"""How many runs of a task may run at a time, and how many may begin in a period."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from kapstan.errors import ConfigurationError

_PERIODS = {"s": 1, "second": 1, "m": 60, "minute": 60, "h": 3600, "hour": 3600, "d": 86400, "day": 86400}
_RATE = re.compile(rf"\s*(\d{{1,9}})\s*(?:/|per)\s*({'|'.join(_PERIODS)})\s*")
_TOGETHER = 0.05
"""Seconds: what fits into this much time may begin at once, so that a high rate needs no timer for each run."""
MOST = 1_000_000


class RateLimit(NamedTuple):
    """At most ``runs`` begin in any ``seconds``."""

    runs: int
    seconds: int

    def __str__(self) -> str:
        return f"{self.runs}/{next(name for name, seconds in _PERIODS.items() if seconds == self.seconds)}"

    @property
    def pace(self) -> tuple[float, float]:
        """Milliseconds between two runs, and by how many milliseconds runs may be ahead of that.

        Runs that begin evenly keep any period by themselves. Where some may begin together, the pace is that much
        slower: ``together - 1`` of a period's runs are then those that were ahead.
        """
        together = max(1, int(self.runs * _TOGETHER / self.seconds))
        between = self.seconds * 1000 / (self.runs - together + 1)
        return between, (together - 1) * between


class Limits(NamedTuple):
    """The limits of a task: over all its runs, and over those of each group."""

    concurrency: int | None = None
    rate: RateLimit | None = None
    group_concurrency: int | None = None
    group_rate: RateLimit | None = None


def rate(option: str, value: Any) -> RateLimit:
    """Raises:
    ConfigurationError: none, or one that lets nothing begin.
    """
    if isinstance(value, RateLimit):
        return value
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if found is None or not 1 <= int(found[1]) <= MOST:
        raise ConfigurationError(
            f"{option}={value!r}: give a number of runs, 1 to {MOST}, in a period: '100/m' (s, m, h or d)"
        )
    return RateLimit(int(found[1]), _PERIODS[found[2]])


def slots(option: str, value: Any) -> int:
    """Raises:
    ConfigurationError: not a whole number, or one that lets nothing run.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise ConfigurationError(f"{option}={value!r}: give the number of runs at a time, 1 to {MOST}")
    return value


def of(spec: Any) -> Limits:
    """The limits of a ``specs.TaskSpec``."""
    return Limits(spec.concurrency_limit, spec.rate_limit, spec.group_concurrency_limit, spec.group_rate_limit)
