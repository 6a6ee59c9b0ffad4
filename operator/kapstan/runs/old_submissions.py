"""Background runs of durability ``store`` that ended long ago: what is noted of their ends, and their submissions.

The submission goes first: a note without it says that the run is over, a submission without its note that it is not.
Called by ``sweep``.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple

from kapstan.backend import Backend
from kapstan.errors import SerializationError, StoreUnsafe
from kapstan.ids import RunId
from kapstan.ports import Listed, Store
from kapstan.runs import ends, submissions
from kapstan.runs.retention import Ages, Kept, is_old, is_run_id


class StoredRun(NamedTuple):
    """What a store holds of one run. ``name``: its id, if it is one of ours."""

    name: str
    submission: Listed | None
    end: Listed | None


def runs_of(store: Store) -> Iterator[StoredRun]:
    """Every run that has a submission or a note; two listings side by side."""
    sides = [((_name(entry), entry) for entry in store.listed(folder)) for folder in (submissions.FOLDER, ends.FOLDER)]
    for name, group in itertools.groupby(heapq.merge(*sides, key=itemgetter(0)), key=itemgetter(0)):
        entries = {entry.key.partition("/")[0] + "/": entry for _, entry in group}
        yield StoredRun(name, entries.get(submissions.FOLDER), entries.get(ends.FOLDER))


def _name(entry: Listed) -> str:
    return entry.key.partition("/")[2]


class Submitted:
    """Which runs stand in a store to be submitted again, should the queue lose them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._any: bool | None = None

    def among(self, run_ids: Iterable[RunId]) -> set[RunId]:
        if self._any is None:
            self._any = next(self._store.keys(submissions.FOLDER), None) is not None
        if not self._any:
            return set()
        return {run_id for run_id in run_ids if self._store.get(submissions.FOLDER + run_id) is not None}


def looked_at(
    backend: Backend, ages: Ages, now: float, in_queue: Callable[[Sequence[RunId]], set[RunId]]
) -> Iterator[tuple[str, Listed | Kept]]:
    """Each run that is old enough, and what goes of it, one by one in this order, or why it stays."""
    for run in runs_of(backend.store):
        found = look_at(backend, run, ages, now)
        if isinstance(found, list) and in_queue([run.name]):
            found = Kept.QUEUED
        for each in found if isinstance(found, list) else (found,):
            if each is not None:
                yield run.name, each


def look_at(backend: Backend, run: StoredRun, ages: Ages, now: float) -> list[Listed] | Kept | None:
    """What goes of ``run``, in this order; or why it stays. None: it is not old enough.

    Args:
        now: by the store's clock.
    """
    if not is_run_id(run.name):
        return Kept.FOREIGN
    age = max(ages.orphans, backend.settings.result_ttl_seconds)
    there = [entry for entry in (run.submission, run.end) if entry is not None]
    if not all(is_old(entry, age, now) for entry in there):
        return None
    if run.submission is None:
        return there
    try:
        is_over = _is_over(backend, run.name)
    except (SerializationError, StoreUnsafe):
        return Kept.UNREADABLE
    return there if is_over else Kept.OPEN


def _is_over(backend: Backend, run_id: RunId) -> bool:
    stored, ended = submissions.read(backend, run_id), ends.read(backend, run_id)
    if stored is None or stored.withdrawn:
        return True
    return ended is not None and ends.counts(ended, stored)
