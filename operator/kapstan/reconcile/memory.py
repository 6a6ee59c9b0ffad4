"""What the loop remembers between two looks and may lose: places in pools, launches left, drains under way.

A restart begins with an empty one: whoever waits asks again, whoever was granted a place and did not record an attempt
has not started, and a drain is timed anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from kapstan.ports import Key, WorkerObservation
from kapstan.reconcile.observed import Tokens


@dataclass(slots=True)
class Memory:
    """Of one process; used by the event loop's thread only."""

    waiting: dict[Key, Key] = field(default_factory=dict[Key, Key])
    """Runs that asked for a place, and the pool they asked."""
    granted: dict[Key, Key] = field(default_factory=dict[Key, Key])
    """Runs that were given one and have not recorded their attempt."""
    tokens: dict[Key, Tokens] = field(default_factory=dict[Key, Tokens])
    draining: dict[Key, dict[str, datetime]] = field(default_factory=dict[Key, dict[str, datetime]])
    """By TaskWorker: members that were told to drain."""
    members: dict[Key, set[str]] = field(default_factory=dict[Key, set[str]])
    """By TaskWorker: session prefixes of the members that were seen."""
    expired: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])
    """Boots of members whose sessions were ended."""

    def place(self, run: Key) -> Literal["none", "asked", "granted"]:
        return "granted" if run in self.granted else "asked" if run in self.waiting else "none"

    def leave_line(self, run: Key) -> Key | None:
        """The run wants no place any more; the pool that may give it to another."""
        asked, given = self.waiting.pop(run, None), self.granted.pop(run, None)
        return given or asked

    def gone_members(self, worker: Key, seen: WorkerObservation) -> dict[str, int | None]:
        """Members whose process ended since the last look, by session prefix: which boot of a member that is still
        there, None where the member itself is gone. Told until `member_expired` is called for it.
        """
        known = self.members.setdefault(worker, set())
        present = {member.session_prefix: member for member in seen.members}
        gone: dict[str, int | None] = {prefix: None for prefix in known if prefix not in present}
        known.update(present)
        for prefix, member in present.items():
            if member.ended and (prefix, member.boot) not in self.expired:
                gone[prefix] = member.boot
        return gone

    def member_expired(self, worker: Key, prefix: str, boot: int | None) -> None:
        """The sessions of this prefix were ended; not to be done again, or a new boot would lose its own."""
        if boot is not None:
            self.expired.add((prefix, boot))
            return
        self.members.get(worker, set[str]()).discard(prefix)
        self.expired = {(other, number) for other, number in self.expired if other != prefix}

    def forget(self, key: Key) -> None:
        """The object is gone."""
        self.leave_line(key)
        for kept in (self.tokens, self.draining, self.members):
            kept.pop(key, None)
