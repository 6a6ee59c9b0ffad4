"""One attempt's hand on the journal: it opens, which fences the attempt before, and writes in groups.

One write is in flight at a time; what arrives meanwhile goes together in the next one. Whoever calls ``append`` and
finds nobody writing writes, for all that wait: a lone call needs no other thread. What was left by ``post`` is written
by a thread of the journal's own.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from kapstan.codec import Codec
from kapstan.errors import BackendError, Fenced, StoreUnavailable
from kapstan.ids import RunId, new_nonce
from kapstan.journal.history import History, Opening, Record, decode, encode, fold, log_name
from kapstan.ports import Store

SEGMENT_BYTES = 120_000  # up to here one write costs at most 1.5 small ones

Done = Callable[[BaseException | None], None]
"""Called once, from another thread, when a posted record is durable (None) or cannot be (the error). Must not block."""


class _Entry:
    """Records of one call, on their way. ``turn`` is set when they are settled, or when this thread is to write; only
    a caller that must wait has one."""

    __slots__ = ("done", "error", "gone", "records", "settled", "size", "turn")

    def __init__(self, records: Sequence[bytes], done: Done | None = None) -> None:
        self.records = records
        self.size = sum(map(len, records))
        self.done = done
        self.turn: threading.Event | None = None
        self.settled = False
        self.gone = False  # its thread was interrupted and does not wait any more
        self.error: BaseException | None = None

    def settle(self, error: BaseException | None) -> None:
        self.error, self.settled = error, True
        if self.turn is not None:
            self.turn.set()
        if self.done is not None:
            self.done(error)


class Journal:
    """The journal of one run in the process of one attempt. Its methods may be called from several threads."""

    def __init__(self, store: Store, codec: Codec, run_id: RunId) -> None:
        self._codec = codec
        self._run_id = run_id
        self._log = store.log(log_name(run_id))
        self._lock = threading.Lock()
        self._waiting: deque[_Entry] = deque()
        self._writer: _Entry | None = None  # whose thread writes now
        self._ended: BaseException | None = None
        self._posting = _Entry(())  # stands for the thread that writes what was posted
        self._posted = threading.Event()  # that thread is to write, or to end
        self._thread: threading.Thread | None = None

    def open(self, attempt: int, *, host: str, now: float, retries: int = 0, token: str | None = None) -> History:
        """Begin ``attempt``: whoever wrote until now is fenced, and what was written is returned.

        Args:
            retries: how many the flow's policy grants; noted for who must decide about an attempt that was lost.

        Raises:
            Fenced: this attempt or a higher one has begun before; nothing was changed.
            StoreUnavailable, StoreRefused, StoreUnsafe, SignatureError, SerializationError: as ``read_journal``.
        """
        history = History()

        def admit(envelopes: Sequence[bytes]) -> None:
            nonlocal history
            history = fold(decode(envelope, self._codec, self._run_id) for envelope in envelopes)
            highest = max((begun.number for begun in history.attempts), default=0)
            if highest >= attempt:
                raise Fenced(f"attempt {highest} of run {self._run_id} has begun; attempt {attempt} must not go on")

        opening = Opening(attempt, token or new_nonce(), now, host, retries)
        admit(self._log.open(encode(opening, self._codec, self._run_id), admit))
        return history

    def append(self, *records: Record) -> None:
        """Write ``records`` together; returns when they are durable.

        Raises:
            Fenced: another attempt has begun.
            StoreUnavailable: no answer within the store's deadline; they may or may not be in the journal.
            StoreRefused: the store said no.
        """
        entry = _Entry([encode(record, self._codec, self._run_id) for record in records])
        try:
            with self._lock:
                if self._writer is not None:
                    entry.turn = threading.Event()
                self._queue(entry)
                if self._writer is None:
                    self._writer = entry
            if entry.turn is not None:
                entry.turn.wait()
            while self._writer is entry and not entry.settled:
                self._write_batch()
        finally:  # also when a signal's exception came in between
            entry.gone = True
            self._pass_on(entry)
        if entry.error is not None:
            raise entry.error

    def post(self, record: Record, done: Done) -> None:
        """Leave ``record`` to be written, in the order of calls; ``done`` is told.

        Raises:
            Fenced: another attempt has begun.
        """
        entry = _Entry((encode(record, self._codec, self._run_id),), done)
        with self._lock:
            self._queue(entry)
            if self._writer is None:
                self._wake_posting()

    def flush(self) -> None:
        """Wait until everything posted before is durable; raises as ``append``."""
        self.append()

    def close(self) -> None:
        """Write what was posted and let go of the log. Further calls raise ValueError. Not an AttemptEnd."""
        try:
            if self._ended is None:
                self.flush()
        finally:
            with self._lock:
                self._ended = self._ended or ValueError("the journal is closed")
                self._posted.set()
            if self._thread is not None:
                self._thread.join()
            self._log.close()

    # ------------------------------------------------------------------ group commit

    def _queue(self, entry: _Entry) -> None:
        if self._ended is not None:
            raise self._ended
        self._waiting.append(entry)

    def _write_batch(self) -> None:
        """Write what waits, up to the size of a segment; called by the one writer."""
        batch: list[_Entry] = []
        with self._lock:
            size = 0
            while self._waiting and (not batch or size + self._waiting[0].size <= SEGMENT_BYTES):
                batch.append(self._waiting.popleft())
                size += batch[-1].size
        records = batch[0].records if len(batch) == 1 else [record for entry in batch for record in entry.records]
        error: BaseException | None = StoreUnavailable("interrupted while writing; whether it landed is unknown")
        try:
            error = self._write(records)
        except BaseException:
            error = self._write(records)  # a signal's exception: others wait for this write, so it is made all the same
            raise
        finally:
            for entry in batch:
                entry.settle(error)

    def _write(self, records: Sequence[bytes]) -> BaseException | None:
        try:
            if records:
                self._log.append(records)
        except (BackendError, Fenced) as error:
            if isinstance(error, Fenced):
                self._ended = error
            return error
        return None

    def _pass_on(self, entry: _Entry) -> None:
        """``entry`` writes no more: the next that waits does, or nobody if nothing waits."""
        refused: list[_Entry] = []
        with self._lock:
            if self._writer is not entry:
                return
            self._writer = None
            if self._ended is not None:
                refused = list(self._waiting)
                self._waiting.clear()
            elif self._waiting:
                heir = next((other for other in self._waiting if other.done is None and not other.gone), None)
                if heir is None:
                    self._wake_posting()
                else:
                    self._writer = heir
                    if heir.turn is not None:
                        heir.turn.set()
        for other in refused:
            other.settle(self._ended)

    def _wake_posting(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_posted, name="kapstan-journal", daemon=True)
            self._thread.start()
        self._writer = self._posting
        self._posted.set()

    def _write_posted(self) -> None:
        while True:
            self._posted.wait()
            self._posted.clear()
            while self._writer is self._posting and self._waiting and self._ended is None:
                self._write_batch()
            self._pass_on(self._posting)
            if self._ended is not None:
                return
