"""How a client process learns of the ends of runs: one connection and one inbox for all waiting threads.

The thread that waits reads the socket itself; when several wait, one of them reads for all. Every run that somebody
waits for is watched by a script on that connection, whose answer brings the ends that came before; after a reconnect
all that are open are watched again. Called by ``RedisQueue.wait`` and ``record``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, cast

import hiredis

from kapstan.errors import QueueUnavailable
from kapstan.ids import RunId
from kapstan.queue import scripts
from kapstan.queue.record import check_format
from kapstan.queue.wire import ConnectionLost, Dialer, Wake, Wire, pack, refusal

_REMEMBERED = 16_384  # runs that the inbox keeps watching and their records
_PER_CALL = 500
_WATCH_TTL = 7 * 24 * 3600
_RID = 22


class Inbox:
    """Ends of runs, by id.

    Args:
        client: the 8 characters that records of this process carry.
    """

    def __init__(self, dialer: Dialer, prefix: str, client: bytes) -> None:
        self._dialer = dialer
        self._prefix = prefix
        self._client = client
        self._watched: dict[RunId, bytes | None] = {}  # None: open; b"": ended, too large to ride along
        self._waits: dict[object, Sequence[RunId]] = {}  # what each call of wait() waits for; counting them costs more
        self._changed = threading.Condition()
        self._reading = False
        self._wire: Wire | None = None
        self._wake = Wake()

    def seen(self, run_id: RunId) -> bytes | None:
        """The record of an ended run, if a message brought it."""
        return self._watched.get(run_id) or None

    def wait(self, run_ids: Sequence[RunId], timeout: float | None) -> set[RunId]:
        """Those of ``run_ids`` that have ended, as soon as there is one; empty after ``timeout`` seconds.

        Raises:
            QueueUnavailable: no connection within the retry budget.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        this_wait = object()
        with self._changed:
            self._waits[this_wait] = run_ids
            try:
                self._watch(run_ids)
                while True:
                    ended = {run_id for run_id in run_ids if self._watched.get(run_id) is not None}
                    left = None if deadline is None else deadline - time.monotonic()
                    if ended or (left is not None and left <= 0):
                        return ended
                    if self._reading:
                        self._changed.wait(left)
                    else:
                        self._read_for_all(left)
            finally:
                del self._waits[this_wait]

    # ------------------------------------------------------------------ with the lock held

    def _watch(self, run_ids: Sequence[RunId]) -> None:
        fresh = [run_id for run_id in run_ids if run_id not in self._watched]
        for run_id in fresh:
            self._watched[run_id] = None
        if len(self._watched) > 2 * _REMEMBERED:
            waited = set[RunId]().union(*self._waits.values())
            old = [run_id for run_id in self._watched if run_id not in waited]
            for run_id in old[:-_REMEMBERED]:
                del self._watched[run_id]
        if self._wire is not None and fresh:
            try:
                self._wire.send(self._packed(fresh))
            except ConnectionLost:
                self._wake.ring()  # the reader finds out and begins anew

    def _packed(self, run_ids: Sequence[RunId]) -> bytes:
        chunks = [run_ids[at : at + _PER_CALL] for at in range(0, len(run_ids), _PER_CALL)]
        return b"".join([scripts.watch.pack(self._prefix, self._client, _WATCH_TTL, *chunk) for chunk in chunks])

    def _read_for_all(self, timeout: float | None) -> None:
        self._reading = True
        try:
            self._changed.release()
            try:
                item = self._read(timeout)
            finally:
                self._changed.acquire()
            while item is not None:
                self._take(item)
                item = self._wire.parsed() if self._wire is not None else None
        except ConnectionLost:
            self._disconnect()
        finally:
            self._reading = False
            self._changed.notify_all()

    def _take(self, item: Any) -> None:
        watched = self._watched
        if type(item) is hiredis.ReplyError:
            raise refusal(str(item))
        if type(item) is hiredis.PushNotification:
            if item[0] == b"message":
                for run_id, record in _ends(cast("list[bytes]", item)[2]):
                    if run_id in watched:
                        watched[run_id] = record
            return
        check_format(item)
        flat = item[1]
        for at in range(0, len(flat), 2):
            if (run_id := flat[at].decode()) in watched:
                watched[run_id] = flat[at + 1]

    # ------------------------------------------------------------------ without the lock, by the one that reads

    def _read(self, timeout: float | None) -> Any:
        if self._wire is None:
            patience = self._dialer.settings.redis_retry_seconds
            brief = timeout is not None and timeout < patience
            try:
                self._dialer.patiently(self._connect, timeout if brief else patience)
            except QueueUnavailable:
                if brief:
                    return None
                raise
        assert self._wire is not None
        return self._wire.receive(timeout, self._wake)

    def _connect(self) -> None:
        wire = self._dialer.dial()
        try:
            wire.send(pack("SUBSCRIBE", f"{self._prefix}c:{self._client.decode()}"))
            with self._changed:
                wire.send(self._packed([run_id for run_id, record in self._watched.items() if record is None]))
                self._wire = wire
        except BaseException:
            wire.close()
            raise

    def abandon(self) -> None:
        """In a forked child: this inbox is the parent's."""
        self._wake.close()

    def _disconnect(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def close(self) -> None:
        self._disconnect()
        self._wake.close()


def _ends(payload: bytes) -> list[tuple[RunId, bytes]]:
    found: list[tuple[RunId, bytes]] = []
    at = 0
    while at < len(payload):
        size = int(payload[at + _RID : at + _RID + 6])
        body = at + _RID + 6
        found.append((payload[at : at + _RID].decode(), payload[body : body + size]))
        at = body + size
    return found
