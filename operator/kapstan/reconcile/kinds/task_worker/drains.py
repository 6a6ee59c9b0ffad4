"""What is remembered of a TaskWorker's members, and may be lost: drains under way, processes that were seen.

A restart begins with an empty one: a drain is timed anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from kapstan.ports import Key, WorkerObservation


@dataclass(slots=True)
class Drains:
    """Of one process; used by the event loop's thread only."""

    draining: dict[Key, dict[str, datetime]] = field(default_factory=dict[Key, dict[str, datetime]])
    """By TaskWorker: members that were asked to drain."""
    members: dict[Key, set[str]] = field(default_factory=dict[Key, set[str]])
    """By TaskWorker: session prefixes of the members that were seen."""
    expired: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])
    """Boots of members whose sessions were ended."""

    def gone_members(self, worker: Key, seen: WorkerObservation) -> dict[str, int | None]:
        """Members whose process ended since the last look, by session prefix: which boot of a member that is still
        there, None where the member itself is gone. They are returned until `member_expired` is called for them.
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

    def forget(self, worker: Key) -> None:
        """The TaskWorker is gone."""
        self.draining.pop(worker, None)
        self.members.pop(worker, None)
