"""What a lane holds: claims as they come, and the outcomes of them as ``scripts.step`` takes them.

The record that stands after the end repeats most of the one that was claimed. The lane has read that, so for completed
runs it sends those parts, and the script reads no record: that halves what a commit costs the server. Called by
``RedisLane``; the Lua twin is ``lua/step.lua``. Made for every run of a batch, so it counts microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from kapstan.ids import RunId, Token
from kapstan.ports import Claim, Outcome, StoredClaim
from kapstan.queue.record import BEGUN, CANCEL, CLASSES, HEAD, HELD, LETTERS, NO_FLAGS, STORED, Route, record_of
from kapstan.states import EffectClass


class Minted(NamedTuple):
    """What the claims of a batch share."""

    token: Token
    text: str
    """The token as text."""
    claim: str
    """Token and moment, as the session's hash has them."""
    holder: bytes
    """Moment and session, as the record has them after the end."""


Held = tuple[Minted, bytes, int, int]
"""A claim that a lane holds: with its record as it was before, and where in that its place begins and ends."""


def claimed(run_id: RunId, made: Minted, record: bytes) -> tuple[Claim, Held]:
    """A claim from the record as it was before it."""
    start = record.index(b"\0", HEAD) + 1
    end = record.index(b"\0", start)
    attempt, crashes, effect, cancelled, is_stored = _counts_of(record[26:32])
    task = _task_of(record[start:end])
    claim = Claim(run_id, task, made.token, attempt, crashes, effect, record[end + 1 :], cancelled)
    if is_stored:
        said = record_of(run_id, record)
        begun = made.token.epoch > 1 or bool((record[30] - NO_FLAGS) & BEGUN)
        claim = claim._replace(stored=StoredClaim(said.queue, said.priority, said.group, said.fingerprint, begun))
    return claim, (made, record, start, end)


@lru_cache(maxsize=4096)
def minted(era: bytes, epoch: bytes, since: bytes, session: bytes) -> Minted:
    """Of claims that a step made; ``epoch`` is that of their records before it."""
    return minted_as(f"{era.decode()}{int(epoch) + 1:08d}".encode(), since, session)


@lru_cache(maxsize=4096)
def minted_as(token: bytes, since: bytes, session: bytes) -> Minted:
    text = token.decode()
    holder = b"".join((HELD, since, session, b"\0"))
    return Minted(Token(int(text[:6]), int(text[6:])), text, text + since.decode(), holder)


@lru_cache(maxsize=4096)
def _counts_of(part: bytes) -> tuple[int, int, EffectClass, bool, bool]:
    """Attempt, crashes, class, whether it is to be cancelled, and whether it is stored."""
    flags = part[4] - NO_FLAGS
    return int(part[1:4]), part[0] - 48, CLASSES[part[5]], bool(flags & CANCEL), bool(flags & STORED)


@lru_cache(maxsize=4096)
def _task_of(place: bytes) -> str:
    return Route.parse(place.decode()).task


class Step(NamedTuple):
    """What ``scripts.step`` takes; the number of the connection is that of the one on which it is sent."""

    sure: int
    """1 if the lane holds nothing more after it, and knows that."""
    want: int
    routes: int
    rest: tuple[str | bytes | int, ...]
    finished: dict[RunId, str]
    """The tokens of its outcomes: still held as long as the answer is open."""


def hand_in(
    held: dict[RunId, Held], outcomes: Iterable[Outcome], now: bytes
) -> tuple[list[str | bytes | int], dict[RunId, str]]:
    """Take the claims that these outcomes end out of ``held``.

    Returns:
        what ``scripts.step`` takes for the outcomes, in groups of one state, client and route; and their tokens. An
        outcome of an older claim takes nothing out.
    """
    groups: dict[tuple[str, bytes, bytes], list[str | bytes]] = {}
    tokens: dict[RunId, str] = {}
    client = place = head = b""
    items: list[str | bytes] = []
    made_before: Minted | None = None
    for run_id, token, state, envelope in outcomes:
        claim = held.get(run_id)
        if claim is None or claim[0].token != token:
            tokens[run_id] = text = str(token)
            groups.setdefault((LETTERS[state], b"", b""), []).extend((run_id, text, envelope))
            continue
        del held[run_id]
        made, record, start, end = claim
        tokens[run_id] = made.text
        if state != "completed" or record[30] != NO_FLAGS:  # a deadline is removed
            groups.setdefault((LETTERS[state], b"", b""), []).extend((run_id, made.text, envelope))
            continue
        if made is not made_before:
            made_before, head = made, b"".join((b"1c", made.text.encode(), now))
        if record[start:end] != place or record[32:40] != client:
            place, client = record[start:end], record[32:40]
            items = groups.setdefault(("c", client, place.partition(b"||")[0]), [])
        # crashes and attempt, no flags, then class to place
        ended = b"".join((head, record[26:30], b"0", record[31:end], made.holder, envelope))
        items += (run_id, made.claim, ended)
    return [part for group, items in groups.items() for part in (*group, len(items) // 3, *items)], tokens
