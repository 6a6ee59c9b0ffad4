"""``RedisQueue``: ``ports.Queue`` on Redis, for the background runs of one namespace.

Made by ``backend``. Clients call it from any thread; supervisors and executors get their ``Session`` and ``Lane`` here.
It knows records and scripts, never what an envelope holds. Nothing that was opened before a fork is used after it.
"""

from __future__ import annotations

import json
import os
import re
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from kapstan.durability import Durability
from kapstan.errors import ConfigurationError, QueueUnavailable
from kapstan.ids import RunId, host_label, new_nonce
from kapstan.ports import (
    BackgroundFilter,
    Depth,
    EraRegister,
    RunRecord,
    RunState,
    Served,
    SessionInfo,
    Submission,
    Submitted,
)
from kapstan.ports.queue import ENDS_SECONDS
from kapstan.queue import replacing, scripts, submit_call, synced
from kapstan.queue.background_runs import RedisBackgroundRuns
from kapstan.queue.bulk import BulkSubmit, conflict
from kapstan.queue.dialer import Dialer, check_server
from kapstan.queue.inbox import Inbox
from kapstan.queue.keys import prefix_of
from kapstan.queue.lane import RedisLane
from kapstan.queue.record import (
    Route,
    check_format,
    fields_of,
    record_of,
    route_of,
    routes_of,
    state_of,
)
from kapstan.queue.session import RedisSession
from kapstan.queue.session_info import session_info
from kapstan.queue.wire import ConnectionLost, Wire, pack
from kapstan.run_limits import Limits
from kapstan.settings import Settings

T = TypeVar("T")
_TOGETHER = 500  # commands of one pipeline
_AHEAD = 256  # records that are read together, once one is asked for, of runs that are known to have ended
_PAUSES = (0.02, 0.1)  # seconds; see expire_session
_SESSION = re.compile(r"[A-Za-z0-9._-]{1,200}")


class RedisQueue:
    """See ``ports.Queue``.

    Args:
        register: raised by the sessions of this queue when the server was restarted; clients never use it.
    """

    def __init__(self, settings: Settings, register: EraRegister) -> None:
        self.settings = settings
        self.prefix = prefix_of(settings.namespace)
        self._register = register
        self._dialer = Dialer(settings)
        self._begin()
        _queues.add(self)

    def _begin(self) -> None:
        self._client = new_nonce()[-8:].encode()
        self._idle: deque[Wire] = deque()
        self._inbox = Inbox(self._dialer, self.prefix, self._client)

    def _after_fork(self) -> None:
        self._inbox.abandon()
        self._dialer = Dialer(self.settings)
        self._begin()

    @property
    def channel(self) -> str:
        """Where this process hears of the ends of the runs that it submitted."""
        return f"{self.prefix}c:{self._client.decode()}"

    # ------------------------------------------------------------------ submitting

    def submit(self, submission: Submission) -> Submitted:
        call = self.call if submission.durability is not Durability.AOF else self.call_synced
        packed = submit_call.packed(self.prefix, submission, self._client, self.settings.result_ttl_seconds)
        submitted = submit_call.submitted_of(self._inbox.submitting(submission, call, packed))
        if submitted is None:
            raise conflict([submission.run_id])
        return submitted

    def replace(self, key: str, make: Callable[[RunId], Submission]) -> tuple[RunId, Submitted]:
        run_id, submitted = replacing.replace(self, key, make, self._client)
        self._inbox.submitted((run_id,))
        return run_id, submitted

    def submit_many(self, submissions: Iterable[Submission]) -> list[Submitted]:
        bulk = BulkSubmit(self._dialer, self._wire, self.prefix, self._client)
        try:
            return bulk.run(submissions)
        finally:
            self._inbox.submitted(bulk.run_ids)

    # ------------------------------------------------------------------ reading

    def record(self, run_id: RunId) -> RunRecord | None:
        seen = self._inbox.seen(run_id)
        return record_of(run_id, seen) if seen is not None else self.records([run_id])[0]

    def records(self, run_ids: Sequence[RunId]) -> list[RunRecord | None]:
        found: dict[RunId, bytes | None] = {run_id: self._inbox.seen(run_id) for run_id in run_ids}
        unseen = [run_id for run_id, record in found.items() if record is None]
        if unseen:  # who asks for one result is likely to ask for others
            unseen += self._inbox.unread(max(0, _AHEAD - len(unseen)))
        for at in range(0, len(unseen), 500):
            chunk = unseen[at : at + 500]
            values = self.command(pack("MGET", *[f"{self.prefix}t:{run_id}" for run_id in chunk]))
            for run_id, record in zip(chunk, self.looked_at(chunk, values), strict=True):
                found[run_id] = record
                self._inbox.read(run_id, record)
        return [record_of(run_id, record) if (record := found[run_id]) else None for run_id in run_ids]

    def looked_at(self, run_ids: Sequence[RunId], read: Sequence[bytes | None], most: int = -1) -> list[bytes | None]:
        """What was ``read`` of these records; of runs that may be held, as it is with their claims. ``most``: the first
        so many bytes of those (-1: all)."""
        found = list(read)
        held = [at for at, record in enumerate(read) if record and record[1:2] in (b"q", b"r")]
        for at in range(0, len(held), 500):
            chunk = held[at : at + 500]
            records = self.call(scripts.look.pack(self.prefix, most, *[run_ids[place] for place in chunk]))[1]
            for place, record in zip(chunk, records, strict=True):
                found[place] = record
        return found

    def wait(self, run_ids: Sequence[RunId], timeout: float | None) -> set[RunId]:
        return self._inbox.wait(run_ids, timeout)

    def depth(self, served: Sequence[Served]) -> Depth:
        ready = delayed = running = paused = limited = 0
        oldest = -1
        routes = routes_of(served)
        for at in range(0, len(routes), 500):
            reply = self.call(scripts.depth.pack(self.prefix, *routes[at : at + 500]))
            ready, delayed, running = ready + reply[1], delayed + reply[2], running + reply[3]
            oldest, paused, limited = max(oldest, reply[4]), paused + reply[5], limited + reply[6]
        return Depth(ready, delayed, running, float(oldest) if oldest >= 0 else None, paused, limited)

    def runs(self, limit: int = 100) -> list[RunRecord]:
        page = RedisBackgroundRuns(self).page(BackgroundFilter(), limit)
        return [record for record in self.records([run.record.run_id for run in page.runs]) if record is not None]

    # ------------------------------------------------------------------ acting on runs and sessions

    def cancel(self, run_id: RunId) -> RunState | None:
        letter = self.call(scripts.cancel.pack(self.prefix, run_id, self.settings.result_ttl_seconds))[1]
        return state_of(letter[0]) if letter else None

    def pause(self, task: str, queue: str = "default") -> bool:
        return self._pause(task, queue, 1)

    def resume(self, task: str, queue: str = "default") -> bool:
        return self._pause(task, queue, 0)

    def _pause(self, task: str, queue: str, pausing: int) -> bool:
        name = route_of(task or "any", queue)  # names are checked
        name = name if task else f"|{queue}"
        return bool(self.call(scripts.pause.pack(self.prefix, name, pausing))[1])

    def paused(self) -> list[tuple[str, str]]:
        names = [name.decode(errors="replace") for name in self.command(pack("SMEMBERS", f"{self.prefix}pa"))]
        routes = [Route(name[1:], "") if name[:1] == "|" else Route.parse(name) for name in names]
        return sorted((route.task, route.queue) for route in routes)

    def open_session(
        self,
        worker: str,
        served: Sequence[Served],
        lanes: int,
        *,
        session: str | None = None,
        limits: Mapping[str, Limits] | None = None,
    ) -> RedisSession:
        name = session or f"{host_label()}-{os.getpid()}-{new_nonce()[-8:]}"
        if not _SESSION.fullmatch(name):
            raise ConfigurationError(f"session={name!r}: give 1 to 200 letters, digits, '.', '_' or '-'")
        if lanes < 1:
            raise ConfigurationError(f"lanes={lanes}: give at least 1")
        return RedisSession(
            self._dialer, self.call, self._register, self.prefix, name,
            worker=worker, routes=routes_of(served), lanes=lanes, limits=limits or {},
        )  # fmt: skip

    def open_lane(self, session: str, lane: int, served: Sequence[Served]) -> RedisLane:
        return RedisLane(self._dialer, self.prefix, session, lane, routes_of(served))

    def expire_session(self, session_prefix: str, *, seen: bool = False) -> list[str]:
        exact = 2 if seen else 0
        ended: list[str] = []
        pauses = iter(_PAUSES)
        while True:
            packed = scripts.expire.pack(self.prefix, session_prefix, exact, self.settings.result_ttl_seconds)
            _, done, names, living = self.call(packed)
            ended += [name.decode() for name in names]
            if not done:
                continue
            # The server may not have seen yet that the dead process' connection is closed.
            if not living or (pause := next(pauses, None)) is None:
                return sorted(set(ended))
            time.sleep(pause)

    def drain_session(self, session_prefix: str) -> list[str]:
        return [name.decode() for name in self.call(scripts.drain.pack(self.prefix, session_prefix, 0))[1]]

    def note_end(self, name: str, evidence: Mapping[str, Any]) -> None:
        self.command(pack("SET", f"{self.prefix}gone:{name}", json.dumps(dict(evidence)), "EX", ENDS_SECONDS))

    def seen_end(self, name: str) -> Mapping[str, Any] | None:
        found = self.command(pack("GET", f"{self.prefix}gone:{name}"))
        return None if found is None else fields_of(found)

    def sessions(self) -> list[SessionInfo]:
        names = [name.decode(errors="replace") for name in self.command(pack("ZRANGE", f"{self.prefix}s", 0, -1))]
        all_fields = self.commands([pack("HGETALL", f"{self.prefix}w:{name}") for name in names])
        seconds, micros = self.command(pack("TIME"))
        now = int(seconds) * 1000 + int(micros) / 1000
        found = [session_info(name, now, fields) for name, fields in zip(names, all_fields, strict=True)]
        return [info for info in found if info is not None]

    def ping(self) -> str:
        about = self.command(pack("INFO", "server"))
        return check_server(about.decode(), self.command(pack("INFO", "memory")).decode())

    def close(self) -> None:
        self._inbox.close()
        while self._idle:
            self._idle.pop().close()

    # ------------------------------------------------------------------ calling

    def call(self, packed: bytes) -> Any:
        """The reply of one script; see ``command``."""
        reply = self.command(packed)
        check_format(reply)
        return reply

    def call_synced(self, packed: bytes) -> Any:
        """As ``call``, once the server has what it wrote on its disk."""
        attempt = partial(synced.call, self._wire, self.prefix, packed)
        reply = self._dialer.patiently(attempt, self.settings.redis_retry_seconds)
        check_format(reply)
        return reply

    def command(self, packed: bytes) -> Any:
        """The reply to one command; repeated while Redis is away, so ``packed`` must be harmless to repeat.

        Raises:
            QueueUnavailable: Redis stayed away.
        """
        try:
            wire = self._idle.pop()
        except IndexError:
            return self._dialer.patiently(lambda: self._call_anew(packed), self.settings.redis_retry_seconds)
        try:
            reply = wire.call(packed)
        except BaseException as error:
            self._drop(wire)
            if not isinstance(error, ConnectionLost):
                raise
            return self._dialer.patiently(lambda: self._call_anew(packed), self.settings.redis_retry_seconds)
        self._idle.append(wire)
        return reply

    def commands(self, packed: Sequence[bytes]) -> list[Any]:
        """The replies to many commands, sent together; repeated as one command is."""
        replies: list[Any] = []
        for at in range(0, len(packed), _TOGETHER):
            chunk = packed[at : at + _TOGETHER]
            replies += self._dialer.patiently(lambda chunk=chunk: self._all(chunk), self.settings.redis_retry_seconds)
        return replies

    def _all(self, packed: Sequence[bytes]) -> list[Any]:
        with self._wire() as wire:
            wire.send(b"".join(packed))
            return [wire.read() for _ in packed]

    def dial(self) -> Wire:
        """A connection of one's own; see ``Dialer.dial``."""
        return self._dialer.dial()

    def try_for(self, seconds: float, attempt: Callable[[], T], given_up: Callable[[], bool]) -> T | None:
        """``attempt()``, repeated while Redis is away; None after ``seconds`` or when ``given_up()``."""
        try:
            return self._dialer.patiently(attempt, seconds, given_up)
        except QueueUnavailable:
            return None

    def _call_anew(self, packed: bytes) -> Any:
        with self._wire() as wire:
            return wire.call(packed)

    @contextmanager
    def _wire(self) -> Generator[Wire]:
        """A connection that no other thread uses; the ones left over wait for the next call."""
        try:
            wire = self._idle.pop()
        except IndexError:
            wire = self._dialer.dial()
        try:
            yield wire
        except BaseException:
            self._drop(wire)
            raise
        self._idle.append(wire)

    def _drop(self, wire: Wire) -> None:
        wire.close()
        stale, self._idle = self._idle, deque()
        for other in stale:  # of the same age: likely gone with it
            other.close()


_queues: weakref.WeakSet[RedisQueue] = weakref.WeakSet()


def _begin_all_anew() -> None:
    for queue in list(_queues):
        queue._after_fork()  # pyright: ignore[reportPrivateUsage]


os.register_at_fork(after_in_child=_begin_all_anew)
