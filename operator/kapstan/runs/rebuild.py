"""Submits again what Redis has lost of the background runs of durability ``store``, and shows the ends it has lost.

Each step looks at one run and can be repeated: the queue takes a run that it knows for a duplicate, and a worker that
claims one that was submitted again looks first whether its end is noted. So several may rebuild at once, while clients
and workers are at work, and who dies in the middle leaves the rest to the next. Unpickles nothing.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from kapstan import ids
from kapstan.backend import Backend
from kapstan.errors import Conflict, SerializationError, StoreUnsafe
from kapstan.ids import RunId
from kapstan.ports import RunRecord
from kapstan.runs import at_once, ends, persisted, submissions
from kapstan.runs.retention import is_run_id
from kapstan.runs.submissions import StoredSubmission
from kapstan.runs.words import ENDED
from kapstan.states import EffectClass

_BATCH = 200
LEFT_ALONE = (SerializationError, StoreUnsafe, Conflict)
"""What is wrong with one run and does not end a rebuild."""


class Fate(Enum):
    """What becomes of a run; the value is for people."""

    SUBMITTED = "submitted again"
    DOUBT = "in doubt"
    """Submitted again, of class at_most_once: it may have begun, and its register says how it goes on."""
    ENDED = "ended before"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    KNOWN = "in the queue"
    OVER = "ended long ago"
    """So long that the queue would not tell of it any more."""
    NONE = "not stored"
    UNREADABLE = "unreadable"


@dataclass(slots=True)
class Report:
    """What a rebuild did, or would do.

    Attributes:
        fates: by task ("" where it cannot be read).
        unreadable: runs that were left alone, and why; the first hundred.
    """

    fates: dict[str, Counter[Fate]] = field(default_factory=dict[str, Counter[Fate]])
    unreadable: dict[RunId, str] = field(default_factory=dict[RunId, str])
    stopped: bool = False

    @property
    def total(self) -> Counter[Fate]:
        return sum(self.fates.values(), Counter[Fate]())


class _Done(NamedTuple):
    run_id: RunId
    task: str
    fate: Fate
    why: str = ""


class Rebuild:
    """One rebuild of one namespace.

    Args:
        dry_run: change nothing.
        on_run: called after each run that was looked at.
        stop: asked again and again; True: end here, which is safe at any point.
        now: Unix seconds by the store's clock, for tests.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        dry_run: bool = False,
        on_run: Callable[[], object] = lambda: None,
        stop: Callable[[], bool] = lambda: False,
        now: float | None = None,
    ) -> None:
        self._backend = backend
        self._dry_run = dry_run
        self.on_run = on_run
        self._stop = stop
        self._time = lambda: backend.store_time() if now is None else now  # asked for each run: there may be many
        self._ttl = backend.settings.result_ttl_seconds
        self._counted: set[RunId] = set()
        self._back: set[RunId] = set()  # put back because others wait for them
        self.report = Report()

    def count(self) -> int:
        """How many runs ``run`` is going to look at."""
        return sum(1 for _ in self._noted()) + sum(1 for _ in self._submitted())

    def run(self) -> Report:
        """Do it: ends first, which runs that wait for them ask for.

        Raises:
            StoreUnavailable, StoreRefused, QueueUnavailable: what was done stands in ``report``; call again for the
                rest.
        """
        for run_ids, act in ((self._noted(), self._show), (self._submitted(), self._look_at)):
            names = iter(run_ids)
            while batch := list(itertools.islice(names, _BATCH)):
                if self._stop():
                    self.report.stopped = True
                    return self.report
                act(batch)
        return self.report

    def put_back(self, run_id: RunId) -> Fate:
        """Let the queue know again of one run that it does not know, and of those that it waits for.

        Raises:
            SerializationError, StoreUnsafe: what stands in the store for it cannot be read.
            BackendError: queue or store do not answer.
        """
        found = self._put_back(run_id)[-1]
        if found.fate is Fate.UNREADABLE:
            raise SerializationError(f"run {run_id} was submitted before, which cannot be read: {found.why}")
        return found.fate

    # ------------------------------------------------------------------ what is stored

    def _noted(self) -> Iterable[RunId]:
        """The runs whose ends the queue would still tell of."""
        for entry in self._backend.store.listed(ends.FOLDER):
            if self._time() - entry.modified < self._ttl and is_run_id(run_id := entry.key.rpartition("/")[2]):
                yield run_id

    def _submitted(self) -> Iterable[RunId]:
        for key in self._backend.store.keys(submissions.FOLDER):
            if is_run_id(run_id := key.rpartition("/")[2]):
                yield run_id

    # ------------------------------------------------------------------ in batches

    def _show(self, run_ids: list[RunId]) -> None:
        """Let the queue tell of ends that it has lost."""
        known = self._known(run_ids)
        self._each([run_id for run_id in run_ids if run_id not in known], self._shown)
        for _ in run_ids:
            self.on_run()

    def _look_at(self, run_ids: list[RunId]) -> None:
        known = self._known(run_ids)
        for run_id, record in known.items():
            self._add(_Done(run_id, record.task, Fate.KNOWN))
        if not self._dry_run:
            ended = [run_id for run_id, record in known.items() if record.state in ENDED and record.stored]
            self._each(ended, lambda run_id: self._note(known[run_id]))
        self._each([run_id for run_id in run_ids if run_id not in known], self._put_back)
        for _ in run_ids:
            self.on_run()

    def _known(self, run_ids: Sequence[RunId]) -> dict[RunId, RunRecord]:
        records = zip(run_ids, self._backend.queue.records(run_ids), strict=True)
        return {run_id: record for run_id, record in records if record is not None}

    def _each(self, run_ids: list[RunId], act: Callable[[RunId], list[_Done]]) -> None:
        """``act`` on each, many at once: most of it is waiting for the store."""

        def tried(run_id: RunId) -> list[_Done]:
            try:
                return act(run_id)
            except LEFT_ALONE as error:
                return [_Done(run_id, "", Fate.UNREADABLE, str(error))]

        for done in itertools.chain.from_iterable(at_once.each(tried, run_ids)):
            self._add(done)

    def _add(self, done: _Done) -> None:
        """Count it, once."""
        if done.run_id in self._counted or done.fate is Fate.NONE:
            return
        self._counted.add(done.run_id)
        self.report.fates.setdefault(done.task, Counter())[done.fate] += 1
        if done.why and len(self.report.unreadable) < 100:
            self.report.unreadable[done.run_id] = done.why

    # ------------------------------------------------------------------ one run

    def _shown(self, run_id: RunId) -> list[_Done]:
        ended = ends.read(self._backend, run_id)
        stored = submissions.read(self._backend, run_id)
        if ended is None or not ends.counts(ended, stored):
            return []
        return [_Done(run_id, ended.task, self._ended(ended, stored, needed=True))]

    def _put_back(self, run_id: RunId) -> list[_Done]:
        """Put a run back, and before it what it waits for: what the queue does not know counts as not completed."""
        done: list[_Done] = []
        for each in self._in_order(run_id):
            try:
                done.append(self._one(each, needed=each != run_id))
            except LEFT_ALONE as error:
                done.append(_Done(each, "", Fate.UNREADABLE, str(error)))
            if each != run_id:
                self._back.add(each)
        return done

    def _in_order(self, run_id: RunId) -> list[RunId]:
        """A run, behind those that it waits for and the queue does not know."""
        ordered: list[RunId] = []
        seen: set[RunId] = set()
        left = [(run_id, False)]
        while left:
            each, has_all = left.pop()
            if has_all:
                ordered.append(each)
            elif each not in seen:
                seen.add(each)
                left.append((each, True))
                stored = submissions.read(self._backend, each)
                after = () if stored is None else stored.submission.after
                # A client may remember an end that the queue has lost, so what has ended is put back in any case.
                open_ = {other for other, record in self._known(after).items() if record.state not in ENDED}
                left += [(other, False) for other in after if other not in open_ and other not in self._back]
        return ordered

    def _one(self, run_id: RunId, *, needed: bool) -> _Done:
        """``needed``: another run asks how it ended, however long ago."""
        stored = submissions.read(self._backend, run_id)
        ended = ends.read(self._backend, run_id)
        if ended is not None and ends.counts(ended, stored):
            return _Done(run_id, ended.task, self._ended(ended, stored, needed=needed))
        if stored is None or stored.withdrawn:
            return _Done(run_id, "", Fate.NONE)
        task = stored.submission.task
        if (end := self._end_of(stored)) is not None:
            if not self._dry_run:
                self._restore(ends.settled(self._backend, end[0]), stored)
            return _Done(run_id, task, end[1])
        if not self._dry_run:
            self._backend.queue.submit(stored.submitted_again(self._time()))
        once = stored.submission.effect is EffectClass.AT_MOST_ONCE
        return _Done(run_id, task, Fate.DOUBT if once else Fate.SUBMITTED)

    def _ended(self, ended: RunRecord, stored: StoredSubmission | None, *, needed: bool) -> Fate:
        if not needed and self._time() - ended.since >= self._ttl:
            return Fate.OVER
        self._restore(ended, stored)
        if ended.state == "completed" and stored is not None and not self._dry_run:
            ends.forget_submission(self._backend, ended.run_id)
        return Fate.ENDED

    def _restore(self, ended: RunRecord, stored: StoredSubmission | None) -> None:
        if self._dry_run:
            return
        arguments = b"" if stored is None or ended.state == "completed" else stored.submission.envelope
        self._backend.background_runs.restore(ended, arguments, self._ttl)

    def _end_of(self, stored: StoredSubmission) -> tuple[RunRecord, Fate] | None:
        """The end of a run of which nothing is noted, where it is known all the same. Of one that must not run twice
        only its register tells."""
        if stored.persists and ids.made_at(stored.run_id) is not None:  # of another id the worker looks
            envelope = persisted.known(self._backend, stored.run_id, "")
            if envelope is not None:
                return ends.of_submission(stored, "completed", envelope), Fate.ENDED
        if stored.submission.effect is EffectClass.AT_MOST_ONCE:
            return None
        if stored.cancelled:
            return ends.of_submission(stored, "cancelled", b""), Fate.CANCELLED
        if stored.is_over(self._time()):
            return ends.of_submission(stored, "cancelled", b"", expired=True), Fate.EXPIRED
        return None

    def _note(self, record: RunRecord) -> list[_Done]:
        """Note an end that only the queue tells of: it ended without a worker, or its worker had to go meanwhile."""
        ends.settled(self._backend, record)
        return []
