"""What a store holds of each flow run, run by run in the order of ids: three listings side by side.

Called by ``sweep``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, NamedTuple, Protocol, TypeVar

from kapstan.ids import RunId
from kapstan.ports import Listed, ListedLog
from kapstan.runs.retention import Place, is_run_id

T = TypeVar("T")


class Holdings(NamedTuple):
    """Of one run, or of a background run that stored values. ``values`` is read before the next run is asked for."""

    run_id: RunId
    log: ListedLog | None
    definition: Listed | None
    values: Iterable[Listed]


class _Listings(Protocol):
    def listed(self, prefix: str) -> Iterator[Listed]: ...
    def logs(self, prefix: str) -> Iterator[ListedLog]: ...


def holdings(store: _Listings, foreign: Callable[[str], object]) -> Iterator[Holdings]:
    """Everything below ``flows/``, ``definitions/`` and ``values/``; ``foreign`` is told of keys that are not ours."""

    def run_of_log(log: ListedLog) -> RunId:
        return log.name.rpartition("/")[2]

    def run_of(entry: Listed) -> RunId:
        return entry.key.split("/")[1]

    def is_definition(entry: Listed) -> bool:
        return entry.key.count("/") == 1

    logs = _Side(_ours(store.logs("flows/"), lambda log: log.name, lambda log: is_run_id(run_of_log(log)), foreign))
    defined = store.listed("definitions/")
    definitions = _Side(_ours(defined, lambda e: e.key, lambda e: is_definition(e) and is_run_id(run_of(e)), foreign))
    stored = _ours(store.listed("values/"), lambda e: e.key, lambda e: Place.of(e.key) is not None, foreign)
    values = _Side(itertools.groupby(stored, run_of))
    while True:
        heads = (
            None if logs.head is None else run_of_log(logs.head),
            None if definitions.head is None else run_of(definitions.head),
            None if values.head is None else values.head[0],
        )
        run_id = min((head for head in heads if head is not None), default=None)
        if run_id is None:
            return
        log = logs.head if heads[0] == run_id else None
        definition = definitions.head if heads[1] == run_id else None
        group = () if values.head is None or heads[2] != run_id else values.head[1]
        yield Holdings(run_id, log, definition, group)
        for side, head in zip((logs, definitions, values), heads, strict=True):
            if head == run_id:
                side.advance()


class _Side(Generic[T]):
    """One listing, with the entry that comes next in sight."""

    def __init__(self, entries: Iterable[T]) -> None:
        self._entries = iter(entries)
        self.head: T | None = None
        self.advance()

    def advance(self) -> None:
        self.head = next(self._entries, None)


def _ours(
    entries: Iterable[T], key_of: Callable[[T], str], is_ours: Callable[[T], bool], foreign: Callable[[str], object]
) -> Iterator[T]:
    for entry in entries:
        if is_ours(entry):
            yield entry
        else:
            foreign(key_of(entry))
