"""One object of a log in an object store: frames, of which the first is the head ``format number kind token attempt``.

Format 1 had no attempt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from kapstan.errors import StoreUnsafe
from kapstan.store.framing import frames, scan

FORMAT = 2
READABLE = (FORMAT, 1)  # this format and the one before it

Kind = Literal["open", "fill", "data", "grave"]


@dataclass(frozen=True, slots=True)
class Segment:
    """One object of the sequence. ``fill`` carries nothing: it takes a number away from an older writer; ``grave`` is
    the last one, and the only one that counts."""

    number: int
    token: str
    kind: Kind
    records: tuple[bytes, ...]
    attempt: int = 0
    """Of whoever wrote it; 0 in a segment of format 1, which did not say."""

    def encode(self) -> bytes:
        head = f"{FORMAT} {self.number} {self.kind} {self.token} {self.attempt}"
        return frames((head.encode(), *self.records))

    @classmethod
    def decode(cls, name: str, body: bytes) -> Segment:
        bodies, end = scan(body)
        if end != len(body) or not bodies:
            raise damaged(name, "a segment's checksum does not hold")
        try:
            version, *head = bodies[0].decode().split(" ")
            if int(version) not in READABLE:
                raise damaged(name, f"format {version} was written by a newer release; this one reads {READABLE}")
            number, kind, token, *attempt = head
            return cls(int(number), token, cast("Kind", kind), tuple(bodies[1:]), int(attempt[0]) if attempt else 0)
        except ValueError:
            raise damaged(name, f"the head of a segment cannot be read: {bodies[0][:40]!r}") from None

    def is_behind(self, attempt: int) -> bool:
        """Whether it is of an opener that came too late: one of ``attempt`` has the log already. Carries nothing."""
        return self.kind in ("open", "fill") and 0 < self.attempt <= attempt


def damaged(name: str, what: str) -> StoreUnsafe:
    return StoreUnsafe(f"the journal {name} is not consistent: {what}. Nothing was changed; do not resume this run")
