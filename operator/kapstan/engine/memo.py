"""The outcomes that a run finds again: those of earlier attempts, and those of calls inside a task that is retried."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

from kapstan.ids import RunId, derived_id
from kapstan.journal import TaskOutcome


def background_id(outcome: TaskOutcome) -> RunId:
    """The id under which the queue knows a background run of a flow: its key, or one that follows from it where the
    flow, starting over, submitted it anew."""
    if not outcome.background or outcome.run_count == 1:
        return outcome.key
    return derived_id("submitted again", outcome.key, str(outcome.run_count))


class Memo:
    """The outcomes of one execution of a flow's function; safe to share between threads."""

    def __init__(self, outcomes: Mapping[RunId, TaskOutcome]) -> None:
        self._outcomes = dict(outcomes)
        self._positions = {
            (outcome.task, outcome.position): outcome for outcome in outcomes.values() if outcome.position
        }
        self._inside: dict[RunId, dict[RunId, TaskOutcome]] = {}
        self._lock = threading.Lock()

    def take(self, key: RunId, inside: RunId | None) -> TaskOutcome | None:
        """The outcome under ``key``, or None. One of an earlier attempt is handed out once.

        Args:
            inside: the task run that makes the call, None for the flow itself.
        """
        with self._lock:
            outcome = self._outcomes.pop(key, None)
            if outcome is None and inside is not None and inside in self._inside:
                outcome = self._inside[inside].get(key)
        return outcome

    def keep(self, outcome: TaskOutcome, inside: RunId | None) -> None:
        """Remember an outcome of this attempt, until the task that made the call has ended: a retry of it makes the
        call again."""
        with self._lock:
            self._inside.pop(outcome.key, None)
            if inside is not None and outcome.state == "COMPLETED":
                self._inside.setdefault(inside, {})[outcome.key] = outcome

    def forget(self, keys: Iterable[RunId]) -> None:
        """These calls are made anew: what they did was undone."""
        gone = set(keys)
        with self._lock:
            for key in gone:
                self._outcomes.pop(key, None)
            for known in self._inside.values():
                for key in gone & known.keys():
                    del known[key]

    def other_inputs(self, identity: str, position: str) -> TaskOutcome | None:
        """The outcome of an earlier attempt of this very call (task, branch, number), which had other inputs then and
        was not asked for so far; None if there is none."""
        outcome = self._positions.get((identity, position))
        return outcome if outcome is not None and outcome.key in self._outcomes else None

    @property
    def unmatched(self) -> int:
        """Outcomes that no call has asked for so far."""
        return len(self._outcomes)
