"""Locks of one process: a dictionary. Its threads and event loops are all who can hold or wait."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from kapstan.locks.manager import Locks
from kapstan.locks.processes import said_for_people
from kapstan.locks.state import Change, KeyState
from kapstan.ports import LockHolder, Place, Wait

T = TypeVar("T")


class MemoryTable:
    """See ``ports.LockTable``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: dict[str, KeyState] = {}
        self._tokens = itertools.count(1)
        self._about = ""
        self._ring: Callable[[str | None], bool] = _nobody

    def begin(
        self,
        client: str,  # noqa: ARG002
        about: str,
        ring: Callable[[str | None], bool],
        patience: float | None = None,  # noqa: ARG002
    ) -> None:
        self._about, self._ring = about, ring

    def ask(
        self,
        wait: Wait,
        stay: bool,
        silent: Sequence[tuple[str, str]],  # noqa: ARG002
        patience: float | None = None,  # noqa: ARG002
    ) -> Place:
        return self._change(wait.key, lambda change: change.ask(wait, stay))

    def give_up(self, wait: Wait, patience: float | None = None) -> None:  # noqa: ARG002
        self._change(wait.key, lambda change: change.give_up(wait))

    def release(self, key: str, holder: str, token: int | None, patience: float | None = None) -> bool:  # noqa: ARG002
        return self._change(key, lambda change: change.release(holder, token))

    def holder(self, key: str) -> LockHolder | None:
        def look(_: Change) -> LockHolder | None:
            state = self._states.get(key)
            if state is None or (hold := state.hold) is None:
                return None
            return LockHolder(hold.holder, hold.token, hold.since, said_for_people(self._about), len(state.line))

        return self._change(key, look)

    def end_client(self, client: str) -> None:
        """The only one is this process."""

    def close(self) -> None:
        """It lives as long as the process."""

    def _change(self, key: str, act: Callable[[Change], T]) -> T:
        with self._lock:
            state = self._states.setdefault(key, KeyState(key))
            change = Change(state, time.monotonic(), time.time(), self._mint, _nobody_ended)
            answer = act(change)
            if state.empty:
                del self._states[key]
        for _, number in change.rings:
            self._ring(number)
        return answer

    def _mint(self) -> int:
        return next(self._tokens)


def _nobody(_: str | None) -> bool:
    """Rings before ``begin`` reach nobody."""
    return True


def _nobody_ended(_: str) -> bool:
    return False


_locks: Locks | None = None
_making = threading.Lock()


def of_this_process(lease: float, beat: float) -> Locks:
    """The one that all memory lock managers of this process share."""
    global _locks
    with _making:
        _locks = _locks or Locks(MemoryTable(), lease, beat, None)
        return _locks


def _after_fork() -> None:
    """A forked process holds nothing."""
    global _locks, _making
    _making = threading.Lock()
    if _locks is not None:
        _inherited.append(_locks)
    _locks = None


_inherited: list[Locks] = []
os.register_at_fork(after_in_child=_after_fork)
