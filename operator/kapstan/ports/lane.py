"""One executor's line to the queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from kapstan.ids import RunId, Token
from kapstan.states import EffectClass


class StoredClaim(NamedTuple):
    """What is noted in the store with the end of a run of durability ``STORE``, and its claim does not say."""

    queue: str
    priority: int
    group: str
    fingerprint: str
    begun: bool
    """An earlier claim may have begun it."""


class Claim(NamedTuple):
    """A run that this lane may execute, and the token with which it may finish it."""

    run_id: RunId
    task: str
    token: Token
    attempt: int
    """1 for the first execution; grows with each retry that the task's policy asked for, not with crashes."""
    crashes: int
    effect: EffectClass
    envelope: bytes
    cancelled: bool = False
    """It is to be cancelled, and an earlier claim may have begun it: the register of its key says how it ends."""
    stored: StoredClaim | None = None
    """Its submission is in the object store, and so is to be its end."""


class Outcome(NamedTuple):
    """How a claimed run ended. ``envelope`` is the signed result (or reference, or exception)."""

    run_id: RunId
    token: Token
    state: Literal["completed", "failed", "crashed", "cancelled", "parked"]
    """``parked`` is no end: its effect is in doubt, and it keeps its arguments; ``envelope`` is the key."""
    envelope: bytes


class Stepped(NamedTuple):
    """What ``step`` answers."""

    lost: list[RunId]
    """Outcomes that were dropped because the claim, or the whole session, is no longer ours."""
    claims: list[Claim]


Want = int | Mapping[str, int]
"""How much to claim: so many runs; or, by task, how many of it fill a claim alone, one of a task that is not named.
Runs of several tasks share a claim: 64 of a task of 128 leave half of it to the others."""


class Lane(Protocol):
    """One executor's own line to the queue: at most one run executing at a time. Used by one thread, except
    ``give_back`` and ``hand_in``.

    Blocking reads are woken by the submit itself; nothing polls.
    """

    def step(self, outcomes: Sequence[Outcome], want: Want) -> Stepped:
        """Finish ``outcomes`` and claim as many runs as ``want`` allows in one round trip. A run of another class than
        ``p`` comes alone.

        Raises:
            QueueUnavailable: unknown whether it happened; call again with the same outcomes (a commit of one's own is
            recognised).

        After a restart of the server it blocks until a supervisor (or the operator) has raised the era, then goes on.
        """
        ...

    def send_step(self, outcomes: Sequence[Outcome], want: Want) -> None:
        """The first half of ``step``, for two steps in flight; the answers come in order from ``read_step``."""
        ...

    def read_step(self) -> Stepped: ...

    def wait(self, timeout: float | None) -> list[Claim]:
        """Block until the queue hands this lane a run, ``wake`` is called or ``timeout`` seconds passed ([] then).

        The caller has no run: what the queue still shows as this lane's (an answer was lost) goes back first.
        """
        ...

    def wake(self) -> None:
        """End ``wait`` from another thread or a signal handler."""
        ...

    def give_back(self, executing: Sequence[RunId], begun: RunId = "") -> list[RunId]:
        """Return every run that this lane holds, but for ``executing``, unharmed to the queue. ``begun``: the one of
        them that was begun, whose deadline counts no more.

        Answers the ids of those that the caller has been given: it must not start them any more. What was claimed and
        not yet read goes back, too; the lane itself drops it. Safe to call from a second thread: it uses a connection
        of its own.
        """
        ...

    def give_back_all(self, begun: RunId = "") -> None:
        """Return every run that this lane holds, as ``give_back``; the caller begins none of them. A run that was
        handed to this lane, is not read yet and has gone to somebody else meanwhile is dropped, too.

        Call it with no step under way. Not safe to call from a second thread.
        """
        ...

    def hand_in(self, outcomes: Sequence[Outcome]) -> list[RunId]:
        """Finish ``outcomes`` and claim nothing; those that were ``LOST``. Safe to call from a second thread, over the
        connection of ``give_back``: what is done must not wait behind a long run."""
        ...

    def retry(self, run_id: RunId, token: Token, delay: float, *, counted: bool = True) -> bool:
        """Free the claim and let the run start again after ``delay`` seconds as its next attempt, or as the same one
        if it is not ``counted``: it was not executed; False: ``LOST``."""
        ...

    def close(self) -> None: ...
