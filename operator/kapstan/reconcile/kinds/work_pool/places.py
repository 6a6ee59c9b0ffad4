"""What is remembered of the places in pools, and may be lost: who asked, who was given one, launches left.

A restart begins with an empty one: whoever waits asks again, and whoever was granted a place and did not record an
attempt has not started.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from kapstan.ports import Key


@dataclass(frozen=True, slots=True)
class Tokens:
    """A pool's bucket of launches: ``left`` at the moment ``at``."""

    left: float
    at: datetime


@dataclass(slots=True)
class Places:
    """Of one process; used by the event loop's thread only."""

    waiting: dict[Key, Key] = field(default_factory=dict[Key, Key])
    """Runs that asked for a place, and the pool they asked."""
    granted: dict[Key, Key] = field(default_factory=dict[Key, Key])
    """Runs that were given one and have not recorded their attempt."""
    tokens: dict[Key, Tokens] = field(default_factory=dict[Key, Tokens])

    def place(self, run: Key) -> Literal["none", "asked", "granted"]:
        return "granted" if run in self.granted else "asked" if run in self.waiting else "none"

    def leave_line(self, run: Key) -> Key | None:
        """The run wants no place any more; the pool that may give it to another."""
        asked, given = self.waiting.pop(run, None), self.granted.pop(run, None)
        return given or asked
