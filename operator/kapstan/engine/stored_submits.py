"""Submits of durability ``store``: a run stands in the object store before the queue is given it.

Who dies in between leaves a run that the queue does not know; its caller was told nothing, and a rebuild submits it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

from kapstan.backend import Backend
from kapstan.errors import BackendError, ConfigurationError, IdempotencyConflict, QueueFull
from kapstan.ids import RunId
from kapstan.ports import Submission, Submitted
from kapstan.runs import at_once, ends, submissions
from kapstan.runs.rebuild import Fate, Rebuild
from kapstan.runs.submissions import StoredSubmission
from kapstan.runs.words import ENDED

T = TypeVar("T")
_TRIES = 20
_REFUSED = (IdempotencyConflict, QueueFull, ConfigurationError)
"""With these the queue has not accepted a run; with any other it may have."""


class _Written(NamedTuple):
    """A submission in the store. ``version``: of this call's own write; None: it was submitted before."""

    stored: StoredSubmission
    version: str | None


class StoredSubmits:
    """Gives the queue runs of one task.

    Args:
        persists: whether their results are kept by their ids, too.
        derived: whether their ids follow from the calls, so that they may have been submitted before.
    """

    def __init__(self, backend: Backend, *, persists: bool, derived: bool) -> None:
        self._backend = backend
        self._persists = persists
        self._derived = derived

    def submit(self, submission: Submission) -> Submitted:
        """As ``Queue.submit``.

        Raises:
            BackendError: also where the store does not take it; the queue was given nothing then.
        """
        written = self._stored([submission])
        answer = self._given(written, lambda: self._backend.queue.submit(submission))
        self._settle(written, [answer])
        return answer

    def submit_many(self, given: Iterable[Submission]) -> list[Submitted]:
        """As ``Queue.submit_many``.

        Raises:
            BackendError: also where the store does not take one of them; the queue was given none then.
        """
        runs = list(given)
        written = self._stored(runs)
        answers = self._given(written, lambda: self._backend.queue.submit_many(runs))
        self._settle(written, answers)
        return answers

    # ------------------------------------------------------------------ before the queue

    def _stored(self, given: Sequence[Submission]) -> list[_Written]:
        """Write them all. If one cannot be written, none is left."""
        now = self._store_time()

        def tried(submission: Submission) -> _Written | Exception:
            try:
                return self._write(submissions.of(submission, now, persists=self._persists), now)
            except Exception as error:  # noqa: BLE001  (raised below, after all were tried)
                return error

        found = [tried(given[0])] if len(given) == 1 else at_once.each(tried, given)
        written = [each for each in found if isinstance(each, _Written)]
        for error in found:
            if isinstance(error, Exception):
                self._withdraw(written)
                raise _explained(error) from error
        return written

    def _store_time(self) -> float:
        try:
            return self._backend.store_time()
        except BackendError as error:
            raise _explained(error) from error

    def _write(self, stored: StoredSubmission, now: float) -> _Written:
        run_id = stored.run_id
        for _ in range(_TRIES):
            if self._derived and self._is_known(run_id):
                # Written anew as it is: whoever wrote it and is refused by the queue just now leaves it alone then.
                submissions.change(self._backend, run_id, lambda there: None if there.withdrawn else there)
                fate = Rebuild(self._backend, now=now).put_back(run_id)
                if fate is Fate.OVER:  # as with a record that has expired, the id is free again
                    submissions.remove(self._backend, run_id)
                    ends.remove(self._backend, run_id)
                elif fate is not Fate.NONE:
                    return _Written(stored, None)
                version = submissions.change(self._backend, run_id, lambda there: stored if there.withdrawn else None)
                if version is not None:
                    return _Written(stored, version)
            version = submissions.create(self._backend, stored)
            if version is not None:
                return _Written(stored, version)
        raise IdempotencyConflict(f"run {run_id} is being submitted by others, again and again")

    def _is_known(self, run_id: RunId) -> bool:
        """Whether there is anything of it in the store."""
        return submissions.read(self._backend, run_id) is not None or ends.read(self._backend, run_id) is not None

    # ------------------------------------------------------------------ the queue, and after it

    def _given(self, written: Sequence[_Written], submit: Callable[[], T]) -> T:
        try:
            return submit()
        except _REFUSED:
            records = self._backend.queue.records([each.stored.run_id for each in written])
            self._withdraw(
                each
                for each, record in zip(written, records, strict=True)
                if record is None or record.fingerprint != each.stored.submission.fingerprint
            )
            raise

    def _settle(self, written: Sequence[_Written], answers: Sequence[Submitted]) -> None:
        """Of a run that the queue knew already the first submit counts: if that was of another durability, or the run
        has ended, nobody would take away what was written now."""
        for each, answer in zip(written, answers, strict=True):
            if each.version is not None and answer.duplicate:
                record = self._backend.queue.record(each.stored.run_id)
                if record is not None and (record.state in ENDED or not record.stored):
                    self._withdraw([each])

    def _withdraw(self, written: Iterable[_Written]) -> None:
        """A rebuild does not submit them. Others may submit a derived id at this moment; what they wrote stays."""
        for stored, version in written:
            if version is None:
                continue
            with suppress(BackendError):  # then it stays, as that of a caller who dies here
                submissions.withdraw(self._backend, stored, version)
                if not self._derived:
                    submissions.remove(self._backend, stored.run_id)


def _explained(error: Exception) -> Exception:
    if not isinstance(error, BackendError):
        return error
    return type(error)(f"durability='store': nothing was submitted, since the store does not take it: {error}")
