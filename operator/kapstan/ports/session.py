"""A worker's presence in the queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from kapstan.ids import RunId, Token


class Renewed(NamedTuple):
    """What ``renew`` answers to a supervisor."""

    alive: bool
    """False: the session had ended (lease passed and reaped); it was opened anew, and its old claims are gone."""
    drain: bool
    """Somebody asked this session to drain: finish what runs, claim no more."""
    cancelled: list[RunId]
    """Claimed runs of this session that should be stopped."""
    reaped: list[str]
    """Sessions that this one saw silent for their lease, and whose runs went back to the queue in this call."""
    next_due: float | None
    """Seconds until a renewal has more to do than to renew: the next delayed run of the namespace is due, or the lease
    of another session ends. None if there is neither."""


class Session(Protocol):
    """A worker's presence in the queue: the lease under which its lanes hold runs. Kept by the supervisor."""

    @property
    def name(self) -> str: ...

    def renew(self, held: Mapping[RunId, Token] | None = None) -> Renewed:
        """Prolong the lease, reap sessions whose lease has passed, promote due runs, re-offer ready ones to idle
        lanes. Raises the era when the server was restarted.

        ``held`` announces the claims of a session that lived through a change of era; those that the records still show
        as this session's stay its own.
        """
        ...

    def wait(self, timeout: float) -> bool:
        """Block until something concerns this supervisor (a cancel, a drain, an earlier due time): True; or until
        ``wake`` is called or ``timeout`` seconds passed: False."""
        ...

    def wake(self) -> None: ...

    def lane_died(self, lane: int, executing: RunId | None, envelope: bytes = b"", died: float | None = None) -> bool:
        """A child is gone since ``died`` (monotonic clock; None: now): the run it was executing is charged with a
        crash, its others go back unharmed. What the lane's next child has claimed stays. True: the run crashed
        ``max_crashes`` times and is quarantined, with ``envelope`` as its outcome. One of class at_most_once, or of
        durability ``store``, goes back however often: whoever claims it next ends it."""
        ...

    def claims(self) -> list[tuple[int, RunId, Token]]:
        """What the queue shows as held by this session: lane, run and token of each."""
        ...

    def take_back(self, claims: Sequence[tuple[RunId, Token]]) -> list[RunId]:
        """Return these claims unharmed to the queue, for a child that cannot do it itself because its task holds the
        interpreter. A run that was claimed anew since has another token and stays; those that went back."""
        ...

    def drain(self) -> None:
        """Claim no more; no lane is idle any longer."""
        ...

    def close(self) -> None:
        """End the session at once: what it still holds goes back."""
        ...
