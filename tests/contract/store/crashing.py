"""A real store whose process dies at a chosen write: for tests that try every crash point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from kapstan.errors import StoreUnavailable
from kapstan.ports import RunLog, Store, Stored
from kapstan.store.segments import SegmentLog


class Crash(BaseException):
    """The process ends here."""


class CrashingStore:
    """``store``, until the ``at``-th create (from 1; 0 for never): the process dies just before it, or just after.

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
        is_last = self.creates == self._at
        if self._at and self.creates >= self._at and not (is_last and self._when == "after"):
            raise self._death(key)
        is_ours = self._store.create(key, body)
        if is_last:
            raise self._death(key)
        self.beaten += not is_ours
        return is_ours

    @staticmethod
    def _death(key: str) -> BaseException:
        """Checkpoints are written by a thread that must not end in a traceback."""
        return StoreUnavailable("the process is dead") if "/c/" in key else Crash()

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
