"""The record of a run and its route, as bytes; the Lua twin stands at the head of ``lua/prelude.lua``.

Called by the adapter's other modules; knows nothing of connections or envelopes' content.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

from kapstan.durability import Durability
from kapstan.errors import ConfigurationError, QueueUnavailable
from kapstan.ids import ID_LENGTH, RunId, Token
from kapstan.ports import RunRecord, RunState, Served, Submission
from kapstan.ports.queue import LONGEST_GROUP, MOST_PRIORITY
from kapstan.states import EffectClass

log = logging.getLogger("kapstan.queue")
FORMAT = b"1"
_STATES: dict[int, RunState] = {
    ord("q"): "ready",
    ord("d"): "delayed",
    ord("r"): "running",
    ord("p"): "parked",
    ord("c"): "completed",
    ord("f"): "failed",
    ord("x"): "crashed",
    ord("k"): "cancelled",
}
LETTERS = {state: chr(letter) for letter, state in _STATES.items()}
TERMINAL = b"cfxk"
CLASSES = {ord(effect): effect for effect in EffectClass}
HEAD = 40  # where the fingerprint begins
_EPOCH = 1577836800  # 2020-01-01
DEADLINE, CANCEL, EXPIRED, BEGUN, STORED = 1, 2, 8, 16, 32  # flags, as at the head of lua/prelude.lua
NO_FLAGS = ord("0")
NOBODY = "--------"
"""The submitter of a run that nobody has submitted."""
HELD = b"\x1f"  # between the route and who held the run that ended
_SEPARATORS = frozenset("|\0\x1f")
_QUEUE = re.compile(r"[A-Za-z0-9._-]{1,63}")
_RUN_ID = re.compile(rb"[-0-9A-Z_a-z]{22}")


class Route(NamedTuple):
    """Which ready list a run stands in: the task, and the queue if it is not ``default``."""

    queue: str
    task: str

    def __str__(self) -> str:
        return self.task if self.queue == "default" else f"{self.queue}|{self.task}"

    @classmethod
    def parse(cls, text: str) -> Route:
        """The route of a route, or of a place."""
        route = text.partition("||")[0]
        queue, bar, task = route.partition("|")
        return cls(queue, task) if bar else cls("default", route)


@lru_cache(maxsize=4096)
def route_of(task: str, queue: str) -> str:
    """The route of a task in a queue.

    Raises:
        ConfigurationError: a name that routes and records could not tell apart.
    """
    if not task or not _SEPARATORS.isdisjoint(task) or len(task.encode()) > 200:
        raise ConfigurationError(f"task={task!r}: give 1 to 200 bytes, without '|' or control characters")
    if not _QUEUE.fullmatch(queue):
        raise ConfigurationError(f"queue={queue!r}: give 1 to 63 letters, digits, '.', '_' or '-'")
    return str(Route(queue, task))


@lru_cache(maxsize=4096)
def place_of(task: str, queue: str, priority: int, group: str) -> str:
    """The name of a ready list: the route, and where they are given priority and group.

    Raises:
        ConfigurationError: as ``route_of``; a priority or a group that cannot be.
    """
    route = route_of(task, queue)
    if not priority and not group:
        return route
    if isinstance(priority, bool) or not isinstance(priority, int) or abs(priority) > MOST_PRIORITY:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"priority={priority!r}: give a whole number, -{MOST_PRIORITY} to {MOST_PRIORITY}")
    if not group.isprintable() or len(group.encode()) > LONGEST_GROUP:
        raise ConfigurationError(f"group={group!r}: give at most {LONGEST_GROUP} bytes that screens show")
    return f"{route}||{priority}|{group}"


def place_of_run(run: Submission) -> str:
    return place_of(run.task, run.queue, run.priority, run.group)


def routes_of(served: Sequence[Served]) -> list[str]:
    """The routes of tasks, each once.

    Raises:
        ConfigurationError: as ``route_of``.
    """
    pairs = [(each, "default") if isinstance(each, str) else each for each in served]
    return list(dict.fromkeys(route_of(task, queue) for task, queue in pairs))


def state_of(letter: int) -> RunState:
    return _STATES[letter]


def tail_of(submission: Submission, client: bytes) -> bytes:
    """The part of the record that the submitter writes: crashes, attempt, flags, class, client, fingerprint, place,
    envelope.

    Raises:
        ConfigurationError: a field that does not fit.
    """
    head, place = ends_of(submission)
    return b"".join((head, client, fingerprint_of(submission), place, submission.envelope))


def fingerprint_of(submission: Submission) -> bytes:
    """
    Raises:
        ConfigurationError: it does not fit.
    """
    fingerprint = submission.fingerprint
    if not (8 <= len(fingerprint) <= 16 and fingerprint.isascii() and fingerprint.isprintable()):
        raise ConfigurationError(f"fingerprint={fingerprint!r}: give 8 to 16 printable characters")
    return fingerprint.encode()


def ends_of(submission: Submission) -> tuple[bytes, bytes]:
    """What stands in ``tail_of`` before the client, and behind the fingerprint up to the envelope.

    Raises:
        ConfigurationError: as ``tail_of``.
    """
    _, task, _, _, queue, _, effect, priority, group, expires, _, level, begun, cancelled = submission
    flags = 0 if expires is None else DEADLINE
    if level is Durability.STORE:
        flags |= STORED | (BEGUN if begun else 0) | (CANCEL if cancelled else 0)
    return _ends_of(task, queue, priority, group, effect, flags)


@lru_cache(maxsize=4096)
def _ends_of(task: str, queue: str, priority: int, group: str, effect: str, flags: int) -> tuple[bytes, bytes]:
    """What stands before the client, and the place between its NULs."""
    if effect not in CLASSES.values():
        raise ConfigurationError(f"effect={effect!r}: give one of EffectClass, such as EffectClass.PURE")
    place = place_of(task, queue, priority, group)
    return f"0001{chr(NO_FLAGS + flags)}{effect}".encode(), f"\0{place}\0".encode()  # crashes 0, attempt 001


def check_format(reply: list[bytes] | bytes) -> None:
    """Every reply of a script begins with its format.

    Raises:
        QueueUnavailable: the scripts are of a release that this one cannot read.
    """
    found = reply[0] if isinstance(reply, list) else reply[:1]
    if found != FORMAT:
        raise QueueUnavailable(f"a script answered in format {found!r}; this release reads {FORMAT!r}")


def fields_of(text: bytes) -> dict[str, Any] | None:
    """The JSON object that a session or an end was written as; None if another program wrote there."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def ends_in(message: bytes) -> list[tuple[RunId, bytes]]:
    """The runs whose ends a message to a client tells, and their records; b"": that did not ride along."""
    found: list[tuple[RunId, bytes]] = []
    at = 0
    while at < len(message):
        digits, body = message[at + ID_LENGTH : at + ID_LENGTH + 6], at + ID_LENGTH + 6
        if not is_run_id(message[at : at + ID_LENGTH]) or not digits.isdigit():
            log.warning("A message on this client's channel is not from Kapstan and is ignored: %.60r", message[at:])
            break
        size = int(digits)
        found.append((message[at : at + ID_LENGTH].decode(), message[body : body + size]))
        at = body + size
    return found


def is_run_id(name: bytes) -> bool:
    return _RUN_ID.fullmatch(name) is not None


def record_of(run_id: RunId, record: bytes) -> RunRecord:
    """What a record says. One that another program or another release wrote is a crashed run without an envelope."""
    try:
        return _read(run_id, record)
    except (ValueError, LookupError):
        return RunRecord(run_id, "", "default", "crashed", Token(0, 0), 1, 0, b"")


def _read(run_id: RunId, record: bytes) -> RunRecord:
    if record[:1] != FORMAT:
        raise ValueError
    fingerprint, place, envelope = record[HEAD:].split(b"\0", 2)
    where, _, held = place.partition(HELD)
    queue, task, priority, group = _wishes_of(where)
    state, flags = _STATES[record[1]], record[30] - NO_FLAGS
    since = moment(record[16:26])
    holder = held[10:].decode()
    return RunRecord(
        run_id,
        task,
        queue,
        state,
        Token(int(record[2:8] or b"0"), int(record[8:16] or b"0")),
        int(record[27:30]),
        record[26] - 48,
        envelope,
        since,
        moment(held[:10]) if held else since if state == "running" else None,
        "" if state == "parked" else holder,
        holder if state == "parked" else "",
        CLASSES[record[31]],
        priority,
        group,
        bool(flags & EXPIRED),
        fingerprint.decode(),
        bool(flags & STORED),
    )


@lru_cache(maxsize=4096)
def _wishes_of(place: bytes) -> tuple[str, str, int, str]:
    """Queue, task, priority and group."""
    route, bars, wish = place.decode().partition("||")
    queue, task = Route.parse(route)
    priority, _, group = wish.partition("|")
    return queue, task, int(priority) if bars else 0, group


def ended_of(record: RunRecord) -> bytes:
    """The bytes of a record that tells of an end, of a run that nobody here waits for."""
    flags = (EXPIRED if record.expired else 0) | (STORED if record.stored else 0)
    counts = f"{record.crashes}{record.attempt:03d}{chr(NO_FLAGS + flags)}{record.effect}{NOBODY}{record.fingerprint}"
    started = "" if record.started is None else _moment_of(record.started)
    place = place_of(record.task, record.queue, record.priority, record.group)
    head = f"1{LETTERS[record.state]}{record.token}{_moment_of(record.since)}{counts}\0{place}"
    return b"".join((head.encode(), HELD, f"{started}{record.session if started else ''}\0".encode(), record.envelope))


def _moment_of(seconds: float) -> str:
    return f"{max(0, round((seconds - _EPOCH) * 1000)):010x}"


def moment(text: bytes) -> float:
    """Unix seconds of a moment as records hold it."""
    return _EPOCH + int(text, 16) / 1000
