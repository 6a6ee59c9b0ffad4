"""A real store whose process dies at a chosen write: for tests that try every crash point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from kapstan.ports import RunLog, Store, Stored
from kapstan.store.segments import SegmentLog


class Crash(BaseException):
    """The process ends here."""


class CrashingStore:
    """``store``, until the ``at``-th create (from 1): the process dies just before, or just after it was made.

    Attributes:
        creates: how many creates were begun.
        beaten: how many found another's object.
    """

    def __init__(self, store: Store, at: int = 0, when: Literal["before", "after"] = "before") -> None:
        self._store = store
        self._at = at
        self._when = when
        self.creates = 0
        self.beaten = 0

    def create(self, key: str, body: bytes) -> bool:
        self.creates += 1
        if self.creates == self._at and self._when == "before":
            raise Crash
        is_ours = self._store.create(key, body)
        if self.creates == self._at:
            raise Crash
        self.beaten += not is_ours
        return is_ours

    def log(self, name: str) -> RunLog:
        return SegmentLog(self, name)

    def get(self, key: str) -> Stored | None:
        return self._store.get(key)

    def put(self, key: str, body: bytes) -> None:
        self._store.put(key, body)

    def replace(self, key: str, body: bytes, version: str) -> str | None:
        return self._store.replace(key, body, version)

    def keys(self, prefix: str, after: str = "") -> Iterator[str]:
        return self._store.keys(prefix, after)

    def delete(self, keys: Sequence[str]) -> None:
        self._store.delete(keys)

    def probe(self) -> None:
        self._store.probe()

    def close(self) -> None:
        self._store.close()
