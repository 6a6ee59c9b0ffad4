"""Bulk submits: many runs in calls of 250, two of which are in flight while the next is built.

Called by ``RedisQueue.submit_many``, with a connection of its own for the time of the call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import chain, islice

from kapstan.durability import Durability
from kapstan.errors import IdempotencyConflict, QueueFull, QueueUnavailable
from kapstan.ids import RunId
from kapstan.ports import Submission, Submitted
from kapstan.queue import scripts, synced
from kapstan.queue.dialer import Dialer
from kapstan.queue.record import check_format, ends_of, fingerprint_of, place_of_run, state_of
from kapstan.queue.server_clock import ServerClock
from kapstan.queue.submit_call import expires_ms, milliseconds
from kapstan.queue.wire import Wire, pack

_BULK = 250  # runs per call of submit_many
_IN_FLIGHT = 2  # calls of it that have no answer yet while the next is built
_NEVER = b"0" * 14  # the token of a run that was never claimed
_NEW, _REPEAT, _CONFLICT = ord("0"), ord("1"), ord("!")


class BulkSubmit:
    """One call of ``submit_many``.

    Args:
        borrow: gives a connection that no other thread uses meanwhile.
        client: the 8 characters of the submitting process.

    Attributes:
        run_ids: the runs that were drawn so far.
    """

    def __init__(
        self, dialer: Dialer, borrow: Callable[[], AbstractContextManager[Wire]], prefix: str, client: bytes
    ) -> None:
        self._dialer = dialer
        self._borrow = borrow
        self._prefix = prefix
        self._client = client
        self._unanswered: deque[tuple[bytes, int]] = deque()  # calls, each with its number of runs
        self._answers: list[bytes] = []
        self._full: QueueFull | None = None
        self._clock = ServerClock()
        self._synced = False
        self.run_ids: list[RunId] = []

    def run(self, submissions: Iterable[Submission]) -> list[Submitted]:
        """See ``ports.Queue.submit_many``. Calls that a lost connection left without an answer are sent again."""
        given = iter(submissions)
        first = list(islice(given, 1))
        self._synced = any(submission.durability is Durability.AOF for submission in first)
        calls = self._calls(chain(first, given))
        try:
            self._dialer.patiently(lambda: self._attempt(calls), self._dialer.settings.redis_retry_seconds)
            if self._full is not None:
                raise self._full
        except QueueUnavailable as error:
            raise self._with_accepted(error) from None
        answers = b"".join(self._answers)
        letters, marks = answers[::2], answers[1::2]
        if _CONFLICT in marks:
            raise conflict([run_id for run_id, mark in zip(self.run_ids, marks, strict=True) if mark == _CONFLICT])
        known = {
            pair: Submitted(state_of(pair[0]), pair[1] == _REPEAT) for pair in set(zip(letters, marks, strict=True))
        }
        if len(known) == 1:
            return [*known.values()] * len(marks)
        return [known[pair] for pair in zip(letters, marks, strict=True)]

    def _with_accepted(self, error: QueueUnavailable) -> QueueUnavailable:
        marks = b"".join(self._answers)[1::2]
        accepted = tuple(run_id for run_id, mark in zip(self.run_ids, marks, strict=False) if mark == _NEW)
        if not accepted:
            return error
        partial = type(error)(f"{error}; {len(accepted)} runs of this call were accepted before, and will run")
        partial.accepted = accepted
        return partial

    def _attempt(self, calls: Iterator[tuple[bytes, int]]) -> None:
        with self._borrow() as wire:
            if not wire.clock.fresh:
                wire.clock.told_time(*wire.call(pack("TIME")))
            self._clock = wire.clock
            if self._synced:
                synced.prepare(wire)
            for packed, _ in self._unanswered:
                self._send(wire, packed)
            while self._full is None and (call := next(calls, None)) is not None:
                self._unanswered.append(call)
                self._send(wire, call[0])
                if len(self._unanswered) > _IN_FLIGHT:
                    self._take(wire)
            while self._unanswered:
                self._take(wire)

    def _send(self, wire: Wire, packed: bytes) -> None:
        if self._synced:  # call by call: a server that starts anew in between may have lost what it had not synced
            synced.send(wire, self._prefix, packed)
        else:
            wire.send(packed)

    def _take(self, wire: Wire) -> None:
        """Read one answer. A full Redis ends the call after the answers of what is in flight."""
        try:
            reply = synced.read(wire) if self._synced else wire.read()
            check_format(reply)
            answer = reply[1]
        except QueueFull as error:
            self._full = self._full or error
            answer = b"??" * self._unanswered[0][1]
        self._answers.append(answer)
        self._unanswered.popleft()

    def _calls(self, submissions: Iterator[Submission]) -> Iterator[tuple[bytes, int]]:
        """Calls of one place and the same wishes each, with their number of runs."""
        ttl = self._dialer.settings.result_ttl_seconds
        items: dict[RunId, bytes] = {}
        task, wished = "", ()  # of the runs in items: their task, then queue, delay, and so on
        words: tuple[int, str, int, int | str, str] = (0, "", ttl, "", "")  # what the call says of them
        begin = place = b""  # of their records: what stands before the fingerprint, and behind it

        def packed() -> tuple[bytes, int]:
            flat = [part for item in items.items() for part in item]
            return scripts.submit_many.pack(self._prefix, *words, *flat), len(items)

        for submission in submissions:
            run_id = submission.run_id
            wishes = submission[4:]
            if items and (wishes != wished or submission.task != task or len(items) == _BULK or run_id in items):
                yield packed()
                items.clear()
            if not items:  # once a call: most calls of a bulk submit have the same wishes
                wished, task, delay = wishes, submission.task, milliseconds(submission.delay)
                after = "".join(submission.after)
                words = (delay, place_of_run(submission), ttl, expires_ms(submission), after)
                counts, place = ends_of(submission)
                begin = b"".join((b"1d" if delay else b"1q", _NEVER, self._clock.now(), counts, self._client))
            self.run_ids.append(run_id)
            items[run_id] = b"".join((begin, fingerprint_of(submission), place, submission.envelope))
        if items:
            yield packed()


def conflict(run_ids: list[RunId]) -> IdempotencyConflict:
    return IdempotencyConflict(f"run {', '.join(run_ids[:5])} exists with another task or other arguments")
