"""One attempt's writer of the journal: opening it fences the attempt before; records are written in groups.

One write is in flight at a time; what arrives meanwhile goes together in the next one. A thread that calls
``append`` while nobody writes does the writing, for all that wait: a lone call needs no other thread. What was left by
``post`` is written by a thread of the journal's own.

An exception of a signal (a time limit, Ctrl-C, SIGTERM) may be raised between any two steps of a caller. So there is no
lock that it could leave behind: the right to write is an entry of a dict, and every change of state is one step of the
interpreter, in an order in which the next writer can go on from any of them. The journal's own thread, which gets no
such exception, goes on for a caller that was interrupted; the exception leaves ``append`` when the record is settled.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from kapstan.codec import Codec
from kapstan.errors import BackendError, Fenced, OtherFlow, RunExpired
from kapstan.ids import RunId, new_nonce
from kapstan.journal.history import History, Opening, Record, decode_all, encode, fold, log_name
from kapstan.ports import Store

SEGMENT_BYTES = 120_000  # up to here one write costs at most 1.5 small ones
_WRITER, _SERVER = "writer", "server"
logger = logging.getLogger("kapstan.journal")

Done = Callable[[BaseException | None], None]
"""Called once, from another thread, when a posted record is durable (None) or cannot be (the error). Must not block."""


class _Entry:
    """Records of one call, on their way. ``bell`` wakes its thread: they are settled, or it may write now."""

    __slots__ = ("bell", "called_back", "done", "error", "gone", "records", "settled", "size")

    def __init__(self, records: Sequence[bytes], done: Done | None = None) -> None:
        self.records = records
        self.size = sum(map(len, records))
        self.done = done
        self.bell: SimpleQueue[None] | None = None  # only a caller that must wait has one
        self.settled = False
        self.called_back = False
        self.gone = False  # its thread was interrupted and writes no more
        self.error: BaseException | None = None


_CLOSE = _Entry(())  # tells the thread to end


class Journal:
    """The journal of one run in the process of one attempt. Its methods may be called from several threads."""

    def __init__(self, store: Store, codec: Codec, run_id: RunId) -> None:
        self._codec = codec
        self._run_id = run_id
        self._log = store.log(log_name(run_id))
        self._waiting: deque[_Entry] = deque()
        self._batch: list[_Entry] = []  # what is being written
        self._turn: dict[str, _Entry] = {}  # who writes, and which thread serves; taken by ``setdefault``, one step
        self._ended: BaseException | None = None
        # What the thread is to do: None, look at what waits; an entry, tell of its end or go on for its caller.
        self._bell: SimpleQueue[_Entry | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def open(
        self,
        attempt: int,
        *,
        host: str,
        now: float,
        retries: int = 0,
        token: str | None = None,
        flow: str = "",
        caller: RunId | None = None,
        deployment: str = "",
    ) -> History:
        """Begin ``attempt``: whoever wrote until now is fenced, and what was written is returned.

        Args:
            retries: how many the flow's policy grants; noted for who must decide about an attempt that was lost.
            flow: identity of the flow that is executed; "" for none.
            caller, deployment: as ``Opening`` has them.

        Raises:
            RunExpired: the journal was removed when its time was over.
            OtherFlow: the journal is of another flow; nothing was changed.
            Fenced: this attempt or a higher one has begun before; nothing was changed.
            StoreUnavailable, StoreRefused, StoreUnsafe, SignatureError, SerializationError: as ``read_journal``.
        """
        history = History()
        read: Sequence[bytes] = ()

        def admit(envelopes: Sequence[bytes]) -> None:
            nonlocal history, read
            if read is envelopes:
                return  # nobody wrote meanwhile: ten thousand records are not decoded twice
            read = envelopes
            history = fold(decode_all(envelopes, self._codec, self._run_id))
            if history.buried:
                raise RunExpired(f"flow run {self._run_id} has ended and its journal was removed; it cannot go on")
            highest = max((begun.number for begun in history.attempts), default=0)
            if highest >= attempt:
                raise Fenced(f"attempt {highest} of run {self._run_id} has begun; attempt {attempt} must not go on")
            if flow and history.flow and flow != history.flow:
                raise OtherFlow(
                    f"flow run {self._run_id} is of the flow {history.flow!r}, not of {flow!r}: resume it with the "
                    "flow that it was begun with, or give the new one that name"
                )

        opening = Opening(attempt, token or new_nonce(), now, host, retries, flow, caller, deployment)
        admit(self._log.open(encode(opening, self._codec, self._run_id), admit, attempt=attempt))
        return history

    def append(self, *records: Record) -> None:
        """Write ``records`` together; returns when they are durable. An exception of a signal is raised when that is
        settled, too.

        Raises:
            Fenced: another attempt has begun.
            StoreUnavailable: no answer within the store's deadline; they may or may not be in the journal.
            StoreRefused: the store said no.
        """
        entry = _Entry([encode(record, self._codec, self._run_id) for record in records])
        if self._ended is not None:
            raise self._ended
        try:
            self._waiting.append(entry)
            while not entry.settled:
                if self._turn.setdefault(_WRITER, entry) is entry:
                    self._write_batch(self._answer)
                else:
                    self._wait(entry)
            if self._turn.get(_WRITER) is entry:
                self._pass_on()
        except BaseException:
            self._bell.put(entry)  # before anything that could be interrupted in its turn
            while not entry.settled:
                self._wait(entry)
            raise
        if entry.error is not None:
            raise entry.error

    def post(self, record: Record, done: Done) -> None:
        """Leave ``record`` to be written, in the order of calls; ``done`` is called when that is settled.

        Raises:
            Fenced: another attempt has begun.
        """
        entry = _Entry((encode(record, self._codec, self._run_id),), done)
        if self._ended is not None:
            raise self._ended
        try:
            self._waiting.append(entry)
            if _WRITER not in self._turn:
                self._bell.put(None)
            self._need_thread()
        except BaseException:
            self._bell.put(entry)
            self._need_thread()
            raise

    def flush(self) -> None:
        """Wait until everything posted before is durable; raises as ``append``."""
        self.append()

    def close(self) -> None:
        """Write what was posted and let go of the log. Further calls raise ValueError. Not an AttemptEnd."""
        try:
            if self._ended is None:
                self.flush()
        finally:
            if self._thread is not None:
                self._bell.put(_CLOSE)
                self._thread.join()
            self._ended = self._ended or ValueError("the journal is closed")
            self._log.close()

    # ------------------------------------------------------------------ group commit

    def _wait(self, entry: _Entry) -> None:
        """One step of a caller on its way to wait; it looks again after each, so that no bell is missed."""
        if _SERVER not in self._turn:
            self._need_thread()
        if entry.bell is None:
            entry.bell = SimpleQueue()
        else:
            entry.bell.get()

    def _write_batch(self, write: Callable[[Sequence[bytes]], BaseException | None]) -> None:
        """Write what waits, up to the size of a segment; called by who has the turn, and again after an interruption:
        then a record may be written twice, which readers count once."""
        batch, waiting = self._batch, self._waiting
        if batch:
            if waiting and waiting[0] is batch[-1]:
                waiting.popleft()
        else:
            size = 0
            while waiting and (not batch or size + waiting[0].size <= SEGMENT_BYTES):
                batch.append(waiting[0])  # at every moment an entry stands in one of the two
                waiting.popleft()
                size += batch[-1].size
        records = batch[0].records if len(batch) == 1 else [record for entry in batch for record in entry.records]
        error = self._ended or write(records)
        while batch:
            self._settle(batch[0], error)
            del batch[0]

    def _settle(self, entry: _Entry, error: BaseException | None) -> None:
        if not entry.settled:
            entry.error = error
            entry.settled = True
        if entry.bell is not None:
            entry.bell.put(None)
        if entry.done is not None:
            self._bell.put(entry)

    def _answer(self, records: Sequence[bytes]) -> BaseException | None:
        """Write, in a caller's thread: what is no answer of the log's is a signal's exception, and raised."""
        try:
            if records:
                self._log.append(records)
        except (BackendError, Fenced) as error:
            if isinstance(error, Fenced):
                self._ended = error
            return error
        return None

    def _any_answer(self, records: Sequence[bytes]) -> BaseException | None:
        """Write, in the journal's thread: whatever goes wrong is the answer, for the thread must live on."""
        try:
            return self._answer(records)
        except BaseException as error:  # noqa: BLE001  (told to whoever waits for these records)
            return error

    def _pass_on(self) -> None:
        """The caller writes no more: the next that waits does, or the journal's thread, or nobody if nothing waits."""
        self._turn.pop(_WRITER, None)
        if not self._waiting:
            return
        try:
            heir = self._waiting[0]
        except IndexError:
            return
        if heir.done is not None or heir.gone:
            self._bell.put(None)
            self._need_thread()
        elif heir.bell is not None:  # without one it has not begun to wait, and looks again before it does
            heir.bell.put(None)

    # ------------------------------------------------------------------ the journal's thread

    def _need_thread(self) -> None:
        if _SERVER not in self._turn:
            thread = threading.Thread(target=self._serve, name="kapstan-journal", daemon=True)
            thread.start()
            self._thread = thread

    def _serve(self) -> None:
        me = _Entry(())
        if self._turn.setdefault(_SERVER, me) is not me:
            return  # two callers started one
        closing = False
        while not closing or not self._bell.empty():
            entry = self._bell.get()
            closing = closing or entry is _CLOSE
            if entry is not None and entry is not _CLOSE:
                self._take_on(entry, me)
            self._write_all(me)
        del self._turn[_SERVER]

    def _write_all(self, me: _Entry) -> None:
        """Write until nothing waits, unless a caller does."""
        while (self._batch or self._waiting) and self._turn.setdefault(_WRITER, me) is me:
            self._empty()

    def _empty(self) -> None:
        """Write until nothing waits, and let go of the turn."""
        while self._batch or self._waiting:
            self._write_batch(self._any_answer)
        del self._turn[_WRITER]

    def _take_on(self, entry: _Entry, me: _Entry) -> None:
        """``entry`` is settled and its ``done`` must be called, or its caller was interrupted at any point."""
        entry.gone = True
        if self._turn.get(_WRITER) is entry:
            self._turn[_WRITER] = me  # it was writing
            self._empty()
        elif not (entry in self._waiting or entry in self._batch or entry.settled):
            self._waiting.append(entry)  # interrupted before it was queued
        if entry.settled and entry.done is not None and not entry.called_back:
            entry.called_back = True
            _tell(entry.done, entry.error)


def _tell(done: Done, error: BaseException | None) -> None:
    try:
        done(error)
    except BaseException:  # a caller's code must not end the thread that others wait for
        logger.exception("Error in the callback %s of a journal", getattr(done, "__qualname__", repr(done)))
