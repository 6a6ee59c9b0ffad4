"""The line of those that want one key, where a cache policy names a lock manager: one works, the others wait in order.

In a process the runs of one key stand in a line of their own, and only the first of them asks the lock manager: so one
lock orders all processes, and no thread waits for each run. A lock proves nothing, since it can be lost: what was done
is what the register says, whoever holds the lock.
"""

from __future__ import annotations

import enum
import logging
import os
import threading
from collections import deque
from typing import Any

from kapstan import states
from kapstan.backend import Backend
from kapstan.engine.operations import Do, Steps, Wait
from kapstan.engine.pending import Pending
from kapstan.ids import RunId, new_nonce
from kapstan.ports import RegisterKey
from kapstan.specs import TaskSpec

logger = logging.getLogger("kapstan.task_runs")
READ_COMMITTED = "READ_COMMITTED"


class NoTurn(Exception):
    """The lock manager raised ``error``: nobody knows whose turn it is."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Turn(enum.Enum):
    """What became of the wish to have the lock."""

    MINE = "the run has it"
    LOOK = "another run of this process had it, and its result is there"
    NOT_NOW = "somebody else has it, and this run does not wait here"


class _Lines:
    """The lines of this process, by key: those that wait, in order. The first, who has its turn, is not in it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[Pending]] = {}

    def enter(self, name: str) -> Pending | None:
        """What ends when something is to be done; None: it is the caller's turn."""
        with self._lock:
            if name not in self._waiting:
                self._waiting[name] = deque()
                return None
            pending = Pending(name)
            self._waiting[name].append(pending)
            return pending

    def leave(self, name: str, *, is_made: bool) -> None:
        """The turn is over: of the next, or nobody's if a result is there, for which all that wait look themselves."""
        with self._lock:
            waiting = self._waiting[name]
            if is_made or not waiting:
                del self._waiting[name]
                told, state = list(waiting), states.Completed()
            else:
                told, state = [waiting.popleft()], states.Running()
        for pending in told:
            pending.finish(state)

    def give_up(self, name: str, pending: Pending) -> bool:
        """Wait no longer; False: it was told already."""
        with self._lock:
            if pending in self._waiting.get(name, ()):
                self._waiting[name].remove(pending)
                return True
        return False


_lines = _Lines()


class KeyLock:
    """The place of one run in the line for its key."""

    def __init__(self, backend: Backend, manager: Any, key: RegisterKey, run_id: RunId) -> None:
        self._backend = backend
        self._manager = manager
        self._name = key.text
        self._holder = f"{run_id}-{new_nonce()}"
        self._lock = threading.Lock()
        self._has_turn = self._holds = self._left = False
        self._error: Exception | None = None

    def turn(self, *, waits: bool) -> Steps[Turn]:
        """Wait for the lock, or not; once more after ``LOOK``.

        Raises:
            NoTurn: the lock manager raised.
        """
        ahead = _lines.enter(self._name)
        if ahead is not None:
            told = yield from self._told(ahead, waits)
            if told is not Turn.MINE:
                return told
        self._has_turn = True
        if (yield Do(self._asked, 0.0)):
            return Turn.MINE
        if not waits:
            yield Do(self.leave)
            return Turn.NOT_NOW
        acquired = Pending(self._name)
        threading.Thread(target=self._wait, args=(acquired,), name="kapstan-key-lock", daemon=True).start()
        yield Wait([acquired])
        if self._error is not None:
            raise NoTurn(self._error) from self._error
        return Turn.MINE

    def _told(self, ahead: Pending, waits: bool) -> Steps[Turn]:
        if not waits:
            return Turn.NOT_NOW if _lines.give_up(self._name, ahead) else self._from(ahead)
        try:
            yield Wait([ahead])
        except BaseException:
            if not _lines.give_up(self._name, ahead):
                self._has_turn = self._from(ahead) is Turn.MINE
            raise
        return self._from(ahead)

    @staticmethod
    def _from(ahead: Pending) -> Turn:
        return Turn.MINE if ahead.state.is_running() else Turn.LOOK

    def _acquire(self, timeout: float | None) -> bool:
        """Whether the run holds the lock: also if it was asked for when its run had left already; then it is freed."""
        if not self._manager.acquire_lock(self._name, self._holder, acquire_timeout=timeout):
            return False
        with self._lock:
            self._holds = not self._left
        if not self._holds:
            self._release()
        return self._holds

    def _asked(self, timeout: float) -> bool:
        try:
            return self._acquire(timeout)
        except Exception as error:  # whatever a manager of the user's raises
            raise NoTurn(error) from error

    def _wait(self, acquired: Pending) -> None:
        try:
            self._acquire(None)
        except Exception as error:  # noqa: BLE001  (the run gets it)
            self._error = error
        finally:
            acquired.finish(states.Completed())

    def leave(self, *, is_made: bool = False) -> None:
        """Free the lock and let the next one have its turn.

        Args:
            is_made: there is a result now, which those that wait can look for.
        """
        with self._lock:
            holds, self._holds, self._left = self._holds, False, True
        if holds:
            self._release()
        if self._has_turn:
            self._has_turn = False
            _lines.leave(self._name, is_made=is_made)

    def leave_later(self) -> None:
        """As ``leave``, without waiting for the lock manager: the run was ended from outside."""
        self._backend.later(self.leave)

    def _release(self) -> None:
        try:
            self._manager.release_lock(self._name, self._holder)
        except Exception as error:  # noqa: BLE001  (the register tells what holds, not the lock)
            logger.warning("The lock of key %s was not released: %s: %s", self._name, type(error).__name__, error)


def orders(spec: TaskSpec) -> bool:
    """Whether the task's cache policy orders the callers of a key."""
    policy = spec.cache_policy
    return getattr(policy, "lock_manager", None) is not None and policy.isolation_level != READ_COMMITTED


def of(spec: TaskSpec, backend: Backend, key: RegisterKey, run_id: RunId) -> KeyLock | None:
    """The place of a run in the line for its key; None where nobody is ordered."""
    return KeyLock(backend, spec.cache_policy.lock_manager, key, run_id) if orders(spec) else None


def _forget() -> None:
    global _lines
    _lines = _Lines()


os.register_at_fork(after_in_child=_forget)
