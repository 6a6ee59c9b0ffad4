"""What is aimed at, as data: the goals of the prototypes that the design rests on. A goal is no test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound of the ratio to the yardstick, or of our own figure (in the line's unit)."""

    bound: float
    best: Literal["most", "least"]
    of: Literal["ratio", "figure"] = "ratio"

    def __str__(self) -> str:
        return f"{'>=' if self.best == 'most' else '<='} {self.bound:g}{'x' if self.of == 'ratio' else ''}"

    def verdict(self, reached: float) -> str:
        """``met``, or how far ``reached`` is from the bound."""
        if reached >= self.bound if self.best == "most" else reached <= self.bound:
            return "met"
        apart = self.bound / reached if self.best == "most" else reached / self.bound
        return f"short by {apart - 1:.0%}" if apart < 3 else f"short {apart:.1f}x"


def at_most(bound: float) -> Goal:
    return Goal(bound, "least")


def at_least(bound: float) -> Goal:
    return Goal(bound, "most")


GOALS = {
    "submit": at_most(1.0),
    "bulk": at_least(1.3),
    "throughput-dramatiq": at_least(20),
    "throughput-raw": at_least(1.0),
    "workers": at_least(1.4),
    "workers-possible": Goal(1.4, "most", "figure"),
    "server-cost": Goal(10, "least", "figure"),
    "latency-result": at_most(0.4),
    "memory": Goal(480, "least", "figure"),
    "append-local": Goal(20, "least", "figure"),
    "append-s3": at_most(1.1),
    "concurrent-s3": at_least(0.95),
    "hit": at_most(1.2),
    "keyed-pure": at_most(1.2),
    "keyed-once": at_most(1.2),
    "waiters": Goal(50, "least", "figure"),
    "takeover": Goal(100, "least", "figure"),
    "cluster": at_most(1.1),
    "fairness": at_most(1.1),
    "recovery": Goal(50, "least", "figure"),
    "list": Goal(100, "least", "figure"),
    "list-next": Goal(100, "least", "figure"),
    "import": Goal(60, "least", "figure"),
}
