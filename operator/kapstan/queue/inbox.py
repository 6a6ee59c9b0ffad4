"""How a client process learns of the ends of runs: one connection and one inbox for all waiting threads.

The thread that waits reads the socket itself; when several wait, one of them reads for all. Every run that somebody
waits for is watched by a script on that connection, whose answer brings the ends that came before and the runs that
the queue does not know; after a reconnect all that are open are watched again, so that a run which a restart of Redis
lost is reported, too. The end of a run that was submitted while the connection was there comes without the script,
which then makes sure of runs that take long. When nobody has waited for a while the connection is ended: what Redis
would send to it piles up in the server's memory. Called by ``RedisQueue.wait`` and ``record``.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, cast

import hiredis

from kapstan.errors import QueueUnavailable
from kapstan.ids import RunId
from kapstan.main_thread import stretch
from kapstan.ports import RunState, Submission
from kapstan.queue import scripts
from kapstan.queue.dialer import Dialer
from kapstan.queue.record import TERMINAL, check_format, ends_in, record_of
from kapstan.queue.wire import ConnectionLost, Refused, Wake, Wire, pack, refusal

log = logging.getLogger("kapstan.queue")
_REMEMBERED = 16_384  # runs that the inbox keeps watching and their records
_PER_CALL = 500
_SMALL = 2048  # bytes of a record that is remembered
_ENDED = frozenset[RunState]({"completed", "failed", "crashed", "cancelled", "parked"})
_AFTER_DEADLINE = 0.05  # seconds; a worker, if there is one, ends the run sooner
_SURE = 0.25  # seconds of waiting after which a run is watched whose end would come by itself
_LINGER = 0.5  # seconds; the connection ends when nobody has waited for one to two of these


class _End(NamedTuple):
    """What is known of a run that is over."""

    record: bytes | None
    """None: the queue does not know the run; empty: it did not ride along."""
    known_at: float


class Inbox:
    """Ends of runs, by id.

    Args:
        client: the 8 characters that records of this process carry.
    """

    def __init__(self, dialer: Dialer, prefix: str, client: bytes) -> None:
        self._dialer = dialer
        self._prefix = prefix
        self._client = client
        self._keep = dialer.settings.result_ttl_seconds  # as long as the queue keeps a record: its id may come again
        self._watched: dict[RunId, _End | None] = {}  # None: open
        self._unread: dict[RunId, None] = {}  # ended, and the message did not bring the record
        self._expected: set[RunId] = set()  # open, and not watched by a script: submitted while this inbox listened
        self._waits: dict[object, Sequence[RunId]] = {}  # what each call of wait() waits for; counting them costs more
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._reading = False
        self._deadline: float | None = None  # when runs of this namespace are to be ended, by whoever comes first
        self._used = False
        self._lingering = False
        self._closed = threading.Event()
        self._wire: Wire | None = None
        self._wake = Wake()

    def seen(self, run_id: RunId) -> bytes | None:
        """The record of an ended run, if a message brought it and it cannot have expired since."""
        end = self._watched.get(run_id)
        return None if end is None or self._over(end) else end.record or None

    def unread(self, most: int) -> list[RunId]:
        """Up to ``most`` of the runs that have ended and whose records no message brought, the oldest first."""
        with self._lock:
            return list(itertools.islice(self._unread, most))

    def read(self, run_id: RunId, record: bytes | None) -> None:
        """This is the record of a run; kept if it has ended and is small."""
        if run_id not in self._unread:
            return
        with self._lock:
            self._unread.pop(run_id, None)
            end = self._watched.get(run_id)
            if end is not None and record and record[1] in TERMINAL and len(record) <= _SMALL:
                self._watched[run_id] = end._replace(record=record)

    def submitting(self, submission: Submission, submit: Callable[[bytes], bytes], packed: bytes) -> bytes:
        """What ``submit(packed)`` answers. If the run is accepted, and this inbox listens already, its end comes by
        itself; but not where there is a deadline, or others come first: who waits may have to end one of them (see
        ``watch``)."""
        run_id, accepted = submission.run_id, False
        listens = self._wire is not None and submission.expires is None and not submission.after
        if listens:
            with self._lock:
                listens = self._wire is not None and run_id not in self._watched and len(self._watched) < _REMEMBERED
                if listens:
                    self._watched[run_id] = None
                    self._expected.add(run_id)
        try:
            reply = submit(packed)
            accepted = reply[2:] == b"0"
        finally:
            if listens and not accepted:  # it may have ended before
                with self._lock:
                    if run_id in self._expected:
                        self._expected.discard(run_id)
                        del self._watched[run_id]
        if accepted:
            self.submitted((run_id,))
        return reply

    def submitted(self, run_ids: Iterable[RunId]) -> None:
        """These runs begin anew: what is remembered of earlier ones with their ids is over."""
        watched = self._watched
        for run_id in run_ids if watched else ():
            if watched.get(run_id) is not None:
                with self._lock:
                    watched[run_id] = None
                    self._unread.pop(run_id, None)

    def wait(self, run_ids: Sequence[RunId], timeout: float | None) -> set[RunId]:
        """Those of ``run_ids`` that have ended or that the queue does not know, as soon as there is one; empty after
        ``timeout`` seconds.

        Raises:
            QueueUnavailable: no connection within the retry budget.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        this_wait = object()
        with self._lock:
            self._waits[this_wait] = run_ids
            try:
                self._watch(run_ids)
                sure = time.monotonic() + _SURE if self._expected and not self._expected.isdisjoint(run_ids) else None
                while True:
                    ended = {run_id for run_id in run_ids if self._watched.get(run_id) is not None}
                    left = None if deadline is None else deadline - time.monotonic()
                    if ended or (left is not None and left <= 0):
                        return ended
                    if sure is not None:
                        until_sure = sure - time.monotonic()
                        if until_sure <= 0:
                            sure = None
                            self._make_sure(run_ids)
                        else:
                            left = until_sure if left is None else min(left, until_sure)
                    if self._reading:
                        self._changed.wait(stretch(left))
                    else:
                        self._read_for_all(self._until_deadline(left))
            finally:
                del self._waits[this_wait]
                self._used = True

    # ------------------------------------------------------------------ with the lock held

    def _over(self, end: _End) -> bool:
        # A parked run goes on one day: it is asked for again.
        return end.record is None or end.record[1:2] == b"p" or time.monotonic() - end.known_at >= self._keep

    def _watch(self, run_ids: Sequence[RunId]) -> None:
        watched = self._watched
        fresh = [run_id for run_id in run_ids if run_id not in watched or ((e := watched[run_id]) and self._over(e))]
        for run_id in fresh:
            watched[run_id] = None
        if len(watched) > 2 * _REMEMBERED:
            waited = set[RunId]().union(*self._waits.values())
            old = [run_id for run_id in watched if run_id not in waited]
            for run_id in old[:-_REMEMBERED]:
                del watched[run_id]
                self._expected.discard(run_id)
                self._unread.pop(run_id, None)
        if fresh:
            self._ask(fresh)

    def _make_sure(self, run_ids: Sequence[RunId]) -> None:
        """Have those watched whose ends would come by themselves: the queue may have lost them, whoever did that."""
        expected = [run_id for run_id in run_ids if run_id in self._expected]
        self._expected.difference_update(expected)
        if open_runs := [run_id for run_id in expected if self._watched.get(run_id) is None]:
            self._ask(open_runs)

    def _ask(self, run_ids: Sequence[RunId]) -> None:
        if self._wire is not None:
            try:
                self._wire.send(b"".join(self._packed(run_ids)))
            except ConnectionLost:
                self._wake.ring()  # the reader finds out and begins anew

    def _until_deadline(self, left: float | None) -> float | None:
        """How long to read: ``left`` seconds, or until a run must be ended that was not begun by its deadline. If that
        is over the queue is asked to end it: it may be that no worker is there to do so."""
        if self._deadline is None or self._wire is None:
            return left
        due = self._deadline - time.monotonic()
        if due > 0:
            return due if left is None else min(due, left)
        self._deadline = None
        with contextlib.suppress(ConnectionLost):  # the reader finds out
            self._wire.send(scripts.watch.pack(self._prefix, self._client, self._keep))
        return left

    def _packed(self, run_ids: Sequence[RunId]) -> list[bytes]:
        chunks = [run_ids[at : at + _PER_CALL] for at in range(0, len(run_ids), _PER_CALL)]
        return [scripts.watch.pack(self._prefix, self._client, self._keep, *chunk) for chunk in chunks]

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
        watched, now = self._watched, time.monotonic()
        if type(item) is hiredis.ReplyError:
            raise refusal(str(item))
        if type(item) is hiredis.PushNotification:
            if item[0] == b"message":
                for run_id, record in ends_in(cast("list[bytes]", item)[2]):
                    if run_id in watched:
                        watched[run_id] = _End(record, now)
                        self._expected.discard(run_id)
                        if not record:
                            self._unread[run_id] = None
            return
        check_format(item)
        self._deadline = None if item[2] < 0 else now + item[2] / 1000 + _AFTER_DEADLINE
        flat = item[1]
        for at in range(0, len(flat), 2):
            if (run_id := flat[at].decode()) in watched:
                watched[run_id] = _End(flat[at + 1] or None, now)

    # ------------------------------------------------------------------ without the lock, by the one that reads

    def _read(self, timeout: float | None) -> Any:
        """The next item; None if there is none so far, or after a new connection, which may bring ends."""
        if self._wire is not None:
            return self._wire.receive(stretch(timeout), self._wake)
        patience = self._dialer.settings.redis_retry_seconds
        brief = timeout is not None and timeout < patience
        try:
            self._dialer.patiently(self._connect, timeout if brief else patience, self._somebody_served)
        except QueueUnavailable:
            if not brief and not self._somebody_served():
                raise
        return None

    def _somebody_served(self) -> bool:
        """Whether a call of ``wait`` has something to return."""
        with self._lock:
            return any(self._watched.get(run_id) for run_ids in self._waits.values() for run_id in run_ids)

    def _connect(self) -> None:
        """Subscribe first, then ask for what ended before: nothing falls in between. A server that takes no writes
        refuses the watch, which counts as no connection; what has ended is read all the same."""
        wire = self._dialer.dial()
        try:
            with self._lock:
                open_runs = [run_id for run_id, end in self._watched.items() if end is None]
                self._expected.clear()
            calls = self._packed(open_runs)
            wire.send(pack("SUBSCRIBE", f"{self._prefix}c:{self._client.decode()}") + b"".join(calls))
            try:
                answers = [wire.read() for _ in calls]
            except Refused:
                self._look(open_runs)
                raise
            with self._lock:
                for item in (*answers, *wire.pushes):
                    self._take(item)
                wire.pushes.clear()
                known = set(open_runs)
                late = [run_id for run_id, end in self._watched.items() if end is None and run_id not in known]
                wire.send(b"".join(self._packed(late)))
                self._wire = wire
                if not self._lingering:
                    self._lingering = True
                    threading.Thread(target=self._linger, name="kapstan-inbox", daemon=True).start()
        except BaseException:
            wire.close()
            raise

    def _look(self, run_ids: Sequence[RunId]) -> None:
        """Note which have ended, by reads alone. That a record is not there says nothing: who refuses writes may be a
        replica that lags behind."""
        wire = self._dialer.dial()
        try:
            for at in range(0, len(run_ids), _PER_CALL):
                some = run_ids[at : at + _PER_CALL]
                records = wire.call(pack("MGET", *[f"{self._prefix}t:{run_id}" for run_id in some]))
                now = time.monotonic()
                with self._lock:
                    for run_id, record in zip(some, records, strict=True):
                        found = record_of(run_id, record) if record else None
                        if found is not None and found.state in _ENDED and run_id in self._watched:
                            self._watched[run_id] = _End(record, now)
        finally:
            wire.close()

    def _linger(self) -> None:
        """End the connection when nobody has waited for a while. A thread of its own, while there is one."""
        while not self._closed.wait(_LINGER):
            with self._lock:
                if not self._waits and not self._used:
                    self._disconnect()
                    self._lingering = False
                    return
                self._used = False

    def abandon(self) -> None:
        """In a forked child: this inbox is the parent's."""
        self._wake.close()

    def _disconnect(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def close(self) -> None:
        self._closed.set()
        self._disconnect()
        self._wake.close()
