"""The worker's part of durability ``store``: how a run ends stands in the object store before the queue is told.

Used by ``BackgroundEngine``, one for each lane.
"""

from __future__ import annotations

import logging

from kapstan.backend import Backend
from kapstan.engine import values
from kapstan.errors import SerializationError
from kapstan.ports import Claim, Outcome
from kapstan.runs import ends, submissions

logger = logging.getLogger("kapstan.task_runs")


class StoredEnds:
    """The end of the run that a lane executes, if that is of durability ``store``."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._claim: Claim | None = None

    @property
    def awaited(self) -> bool:
        """Whether the next outcome is to be noted."""
        return self._claim is not None

    def begin(self, claim: Claim) -> Outcome | None:
        """The claim that is executed next. If an earlier one may have begun it and its end is noted, that end: then it
        is not executed again.

        Raises:
            BackendError: that cannot be asked now.
        """
        self._claim = claim
        if claim.stored is None or not claim.stored.begun:
            return None
        try:
            ended = ends.read(self._backend, claim.run_id)
            if ended is None or not ends.counts(ended, submissions.read(self._backend, claim.run_id)):
                return None
        except SerializationError as error:
            reason = f"it may have ended before, and what is noted of that cannot be read: {error}"
            logger.error("Task run %s of %s was not executed: %s", claim.run_id, claim.task, reason)
            return _outcome(claim, "crashed", values.seal_reason(self._backend, reason, claim.run_id))
        return _outcome(claim, ended.state, ended.envelope)

    def forget(self) -> None:
        """It has not ended."""
        self._claim = None

    def settled(self, outcome: Outcome) -> Outcome:
        """Note ``outcome``: how the run has ended, which is what another has noted before if that stands.

        Raises:
            BackendError: the store does not take it; nothing is lost, call again.
        """
        claim = self._claim
        if claim is None or claim.run_id != outcome.run_id:
            return outcome
        ended = ends.of_outcome(claim, outcome)
        try:
            there = ended if ended is None else ends.settled(self._backend, ended)
        except SerializationError as error:
            logger.error("The end of task run %s is told to the queue alone: %s", claim.run_id, error)
            there = ended
        self._claim = None
        return outcome if there is ended or there is None else _outcome(claim, there.state, there.envelope)


def _outcome(claim: Claim, state: object, envelope: bytes) -> Outcome:
    assert state in ("completed", "failed", "crashed", "cancelled")
    return Outcome(claim.run_id, claim.token, state, envelope)
