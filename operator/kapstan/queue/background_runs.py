"""``RedisBackgroundRuns``: ``ports.BackgroundRuns`` on Redis. Made by ``backend``.

Reads the heads of records, no payloads.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from kapstan.errors import BackendError, ConfigurationError
from kapstan.ids import RunId, made_at, to_uuid
from kapstan.ports import RunRecord, RunState
from kapstan.ports.background_runs import SCANNED, BackgroundFilter, BackgroundPage, Change, ListedRun
from kapstan.queue import scripts
from kapstan.queue.reasons import awaited, limits_without_room
from kapstan.queue.record import Route, ended_of, fields_of, is_run_id, record_of, state_of
from kapstan.queue.run_lists import HOUR, Place, RunLists, cursor_of, place_of
from kapstan.queue.wire import pack

if TYPE_CHECKING:
    from kapstan.queue.redis import RedisQueue

_HEAD = 799  # the last byte that is read of a record: past the longest place and session
_RUNNING = frozenset[RunState]({"running"})
_BAD_ENDS = frozenset[RunState]({"failed", "crashed", "cancelled", "parked"})
_ANSWERS = {b"OK": Change.DONE, b"NONE": Change.UNKNOWN, b"NOT": Change.REFUSED, b"GONE": Change.GONE}
_COUNTED = {"s": "submitted", "r": "running", "c": "completed", "f": "failed", "x": "crashed", "k": "cancelled"}
_MOST_AT_ONCE = 200
_SEARCHED = 20_000
_ROUTES_A_CALL = 20  # of which runs are counted: some 10 ms of the server where each list holds a million
_FAR = 9e15  # ms; when a run is due that waits for other runs
_LEAST = 20  # records that are read together, though fewer are missing


class RedisBackgroundRuns:
    """See ``ports.BackgroundRuns``. Shares the connections of ``queue``."""

    def __init__(self, queue: RedisQueue) -> None:
        self._queue = queue
        self._lists = RunLists(queue)

    def page(self, chosen: BackgroundFilter, limit: int, cursor: str = "") -> BackgroundPage:
        if limit < 1:
            raise ConfigurationError(f"limit={limit}: give at least 1")
        if chosen.states == _RUNNING:
            kind, batches = "r", self._running(limit, cursor)
        else:
            kind = "e" if chosen.states and chosen.states <= _BAD_ENDS else "i"
            batches = self._listed(kind, chosen, limit, cursor)
        found: list[ListedRun] = []
        read = 0
        for batch in batches:
            at = 0
            while at < len(batch):
                places = batch[at : at + min(max(limit - len(found), _LEAST), SCANNED - read)]
                at += len(places)
                for place, record in zip(places, self._heads([place.run_id for place in places]), strict=True):
                    read += 1
                    if record is not None and _fits(chosen, record, place, ends=kind == "e"):
                        found.append(ListedRun(record, place.at / 1000 if kind == "i" else made_at(place.run_id)))
                    if len(found) == limit:
                        return BackgroundPage(self._surroundings(found), cursor_of(kind, place))
                    if read == SCANNED:
                        return BackgroundPage(self._surroundings(found), cursor_of(kind, place), place.at / 1000)
        return BackgroundPage(self._surroundings(found))

    def look(self, run_id: RunId) -> ListedRun | None:
        record = self._queue.record(run_id)
        return None if record is None else self._surroundings([ListedRun(record, made_at(run_id))])[0]

    def beginning_with(self, digits: str, limit: int = 10) -> list[RunId]:
        begins = digits.replace("-", "").lower()
        first, last = (int(begins[:12].ljust(12, digit), 16) for digit in "0f")
        found: list[RunId] = []
        read = 0
        before = Place(last + HOUR, "")  # clocks differ
        for places in self._lists.walk("i", lambda _: True, before=before, since=first - HOUR, size=1000):
            found += [place.run_id for place in places if to_uuid(place.run_id).hex.startswith(begins)]
            read += len(places)
            if len(found) >= limit or read >= _SEARCHED:
                break
        return found[:limit]

    def counts(self, minutes: int = 60) -> list[tuple[float, Mapping[tuple[str, str], int]]]:
        if not 1 <= minutes <= 180:
            raise ConfigurationError(f"minutes={minutes}: give 1 to 180")
        now = int(self._queue.command(pack("TIME"))[0]) // 60
        numbers = range(now - minutes + 1, now + 1)
        hashes = self._queue.commands([pack("HGETALL", f"{self._queue.prefix}x:{number}") for number in numbers])
        counted = {number: _counted(fields) for number, fields in zip(numbers, hashes, strict=True)}
        for minute, route, submitted in self._submitted(numbers):
            counted[minute]["submitted", route] += submitted
        return [(number * 60.0, counted[number]) for number in numbers]

    def _submitted(self, numbers: range) -> Iterator[tuple[int, str, int]]:
        """(minute, route, runs), by the lists of submitted runs; of one hour at a time."""
        for hour in range(numbers[0] // 60, numbers[-1] // 60 + 1):
            minutes = range(max(numbers[0], hour * 60), min(numbers[-1], hour * 60 + 59) + 1)
            names = sorted(self._queue.command(pack("SMEMBERS", f"{self._queue.prefix}ir:{hour}")))
            for at in range(0, len(names), _ROUTES_A_CALL):
                some = names[at : at + _ROUTES_A_CALL]
                _, found = self._queue.call(scripts.submitted.pack(self._queue.prefix, minutes[0], len(minutes), *some))
                for place, number in enumerate(found):
                    if number:
                        name, minute = divmod(place, len(minutes))
                        yield minutes[minute], some[name].decode(errors="replace"), number

    def rerun(self, run_id: RunId) -> tuple[Change, RunState | None]:
        return self._changed(scripts.rerun.pack(self._queue.prefix, run_id, self._queue.settings.result_ttl_seconds))

    def restore(self, ended: RunRecord, arguments: bytes, seconds: float) -> bool:
        prefix, stays = self._queue.prefix, max(1, round(seconds * 1000))
        record = pack("SET", f"{prefix}t:{ended.run_id}", ended_of(ended), "NX", "PX", stays)
        # First: a record without its arguments would say for as long that it cannot be run once more.
        before = [pack("SET", f"{prefix}args:{ended.run_id}", arguments, "PX", stays)] if arguments else []
        return self._queue.commands([*before, record])[-1] is not None

    def delete(self, run_id: RunId) -> tuple[Change, RunState | None]:
        return self._changed(scripts.delete.pack(self._queue.prefix, run_id))

    def _changed(self, packed: bytes) -> tuple[Change, RunState | None]:
        _, answer, letter = self._queue.call(packed)
        return _ANSWERS[answer], state_of(letter[0]) if letter else None

    def _listed(self, kind: Any, chosen: BackgroundFilter, limit: int, cursor: str) -> Iterator[list[Place]]:
        before = place_of(kind, cursor) if cursor else None
        if chosen.until is not None:
            end = Place(round(chosen.until * 1000), "")
            before = end if before is None else min(before, end)
        since = 0 if chosen.since is None else round(chosen.since * 1000)
        return self._lists.walk(kind, _wanted(chosen), before=before, since=since, size=min(limit, _MOST_AT_ONCE))

    def _running(self, limit: int, cursor: str) -> Iterator[list[Place]]:
        """The claims of all sessions, however long ago their runs were submitted."""
        before = place_of("r", cursor) if cursor else None
        names = self._queue.command(pack("ZRANGE", f"{self._queue.prefix}s", 0, -1))
        sessions = [name.decode(errors="replace") for name in names]
        fields = self._queue.commands([pack("HKEYS", f"{self._queue.prefix}w:{name}") for name in sessions])
        held = {key.decode() for keys in fields for key in keys if is_run_id(key)}
        places = sorted((Place(round((made_at(run_id) or 0) * 1000), run_id) for run_id in held), reverse=True)
        places = [place for place in places if before is None or place < before]
        for at in range(0, len(places), min(limit, _MOST_AT_ONCE)):
            yield places[at : at + min(limit, _MOST_AT_ONCE)]

    def _surroundings(self, found: list[ListedRun]) -> list[ListedRun]:
        """``found`` with what other keys tell: who holds a running run, when a delayed one is due or for whom it waits,
        who serves a ready one and which limit has no room for it. Some pipelines more, and only where the page has such
        runs."""
        running = [listed.record.run_id for listed in found if listed.record.state == "running"]
        delayed = [listed.record.run_id for listed in found if listed.record.state == "delayed"]
        prefix = self._queue.prefix
        told = self._queue.commands(
            [
                pack(command, f"{prefix}{key}", each)
                for each in delayed
                for command, key in (("ZSCORE", "d"), ("HGET", "aw"))
            ]
        )
        due, after = dict(zip(delayed, told[::2], strict=True)), dict(zip(delayed, told[1::2], strict=True))
        holders: dict[RunId, str] = {}
        served: set[str] = set()
        paused: set[tuple[str, str]] = set()
        ready = [(listed.record.task, listed.record.group) for listed in found if listed.record.state == "ready"]
        limits = limits_without_room(self._queue, ready) if ready else {}
        if running or ready:
            paused = set(self._queue.paused())
            found_names = self._queue.command(pack("ZRANGE", f"{prefix}s", 0, -1))
            names = [name.decode(errors="replace") for name in found_names]
            fields = self._queue.commands([pack("HMGET", f"{prefix}w:{name}", "@", *running) for name in names])
            for name, (info, *claims) in zip(names, fields, strict=True):
                routes = (fields_of(info or b"") or {}).get("routes")
                served.update(map(str, cast("list[Any]", routes)) if isinstance(routes, list) else ())
                holders |= {run_id: name for run_id, claim in zip(running, claims, strict=True) if claim}
        return [
            listed._replace(
                session=listed.record.session or holders.get(listed.record.run_id, ""),
                due=score / 1000 if (score := due.get(listed.record.run_id)) and score < _FAR else None,
                served=str(Route(listed.record.queue, listed.record.task)) in served,
                paused=_paused(listed.record, paused),
                limit=limits.get((listed.record.task, listed.record.group), ""),
                after=awaited(after.get(listed.record.run_id)),
            )
            for listed in found
        ]

    def _heads(self, run_ids: Sequence[RunId]) -> list[RunRecord | None]:
        keys = [f"{self._queue.prefix}t:{run_id}" for run_id in run_ids]
        try:
            read = self._queue.commands([pack("GETRANGE", key, 0, _HEAD) for key in keys])
        except BackendError as error:  # another program put something else than text there: that run is not listed
            if "WRONGTYPE" not in str(error):
                raise
            read = [value and value[: _HEAD + 1] for key in keys for value in self._queue.command(pack("MGET", key))]
        heads = self._queue.looked_at(run_ids, read, _HEAD + 1)
        return [_head(run_id, head) for run_id, head in zip(run_ids, heads, strict=True)]


def _head(run_id: RunId, head: bytes | None) -> RunRecord | None:
    """The record without what follows its route; None if there is none (deleted, expired)."""
    if not head:
        return None
    return record_of(run_id, b"\0".join((*head.split(b"\0", 2)[:2], b"")))


def _paused(record: RunRecord, paused: set[tuple[str, str]]) -> Literal["task", "queue", ""]:
    if record.state != "ready":
        return ""
    return "task" if (record.task, record.queue) in paused else "queue" if ("", record.queue) in paused else ""


def _wanted(chosen: BackgroundFilter) -> Callable[[str], bool]:
    def wanted(name: str) -> bool:
        return not name or _on_route(chosen, Route.parse(name))

    return wanted


def _on_route(chosen: BackgroundFilter, route: Route) -> bool:
    task, queue = chosen.task, chosen.queue
    return (not queue or route.queue == queue) and (not task or route.task == task or route.task.endswith(f":{task}"))


def _fits(chosen: BackgroundFilter, record: RunRecord, place: Place, *, ends: bool) -> bool:
    if ends and round(record.since * 1000) != place.at:
        return False  # it has run once more since: another entry, or none, tells how it ended
    if chosen.states and record.state not in chosen.states:
        return False
    return _on_route(chosen, Route(record.queue, record.task))


def _counted(fields: dict[bytes, bytes]) -> Counter[tuple[str, str]]:
    found = Counter[tuple[str, str]]()
    for field, number in fields.items():
        letter, _, route = field.decode(errors="replace").partition(":")
        if letter in _COUNTED and re.fullmatch(rb"-?[0-9]{1,15}", number):
            found[_COUNTED[letter], route] = int(number)
    return found
