"""Retries of many background runs at once: those that a filter chooses, as lists do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kapstan.backend import Backend
from kapstan.errors import ConfigurationError, NotFound, NotPossible
from kapstan.ids import RunId
from kapstan.ports import BackgroundFilter, RunState
from kapstan.runs.task_runs import TaskRuns

RETRIED: frozenset[RunState] = frozenset({"failed", "crashed", "cancelled"})
"""States from which a person may have a run go on."""
_PAGE = 1000


@dataclass(slots=True)
class Retries:
    """What became of them. ``refused``: why, by run; it ran, ended otherwise or was forgotten since it was chosen."""

    retried: int = 0
    refused: dict[RunId, str] = field(default_factory=dict[RunId, str])


def chosen_runs(backend: Backend, chosen: BackgroundFilter) -> list[RunId]:
    """Every run that the filter lets pass, the one that ended last first. Reads records, 1,000 at a time; holds the ids
    in memory.

    Raises:
        ConfigurationError: the filter names no states, or others than ``RETRIED``.
        QueueUnavailable: Redis does not answer.
    """
    if not chosen.states or not chosen.states <= RETRIED:
        raise ConfigurationError("--state: give failed, crashed or cancelled; runs in other states are not retried")
    found: dict[RunId, None] = {}
    cursor: str | None = ""
    while cursor is not None:
        page = backend.background_runs.page(chosen, _PAGE, cursor)
        found |= dict.fromkeys(listed.record.run_id for listed in page.runs)
        cursor = page.cursor
    return list(found)


def retry_each(
    backend: Backend, run_ids: Sequence[RunId], told: Callable[[Retries], object] = lambda _: None
) -> Retries:
    """``TaskRuns.retry`` of each, also after one was refused. May be repeated: runs that wait again are refused.

    Args:
        told: called after each, with what became of them so far.

    Raises:
        QueueUnavailable, StoreUnavailable: those that were not reached are as before.
    """
    runs, retries = TaskRuns(backend), Retries()
    for run_id in run_ids:
        try:
            runs.retry(run_id)
            retries.retried += 1
        except (NotFound, NotPossible) as error:
            retries.refused[run_id] = str(error)
        told(retries)
    return retries
