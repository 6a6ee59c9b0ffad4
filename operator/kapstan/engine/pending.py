"""A run in this process whose end others wait for, and how futures among arguments become values.

``futures.Future`` wraps a ``Pending``; the engine itself knows only this and ``Resolvable``, so that it need not
import the surface above it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, cast

from kapstan import states
from kapstan.ids import RunId
from kapstan.states import State


class Resolvable:
    """Something among the arguments that stands for a value to come."""

    __slots__ = ()

    @property
    def memo_reference(self) -> str:
        """What it counts as in memo keys: the run that it stands for."""
        raise AttributeError("memo_reference")

    def final_state(self) -> State:
        """Wait for the run and give its final state."""
        raise AttributeError("final_state")

    def on_done(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` once when the run has ended; at once if it has."""
        raise AttributeError(f"on_done({callback})")


class Pending:
    """A submitted run of this process: its state, and who is to be told when it ends."""

    __slots__ = ("_callbacks", "_done", "_lock", "run_id", "state")

    def __init__(self, run_id: RunId) -> None:
        self.run_id = run_id
        self.state: State = states.Pending()
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._callbacks: list[Callable[[], object]] = []

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it has ended; False if ``timeout`` seconds passed before."""
        return self._done.wait(timeout)

    def finish(self, state: State) -> None:
        """Set the last state and tell everybody; a ``NotReady`` state is the last one, too."""
        with self._lock:
            self.state = state
            self._done.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def on_done(self, callback: Callable[[], object]) -> None:
        with self._lock:
            if not self._done.is_set():
                self._callbacks.append(callback)
                return
        callback()


class UpstreamFailed(Exception):
    """An argument stands for a run that did not complete."""


def resolvables(value: Any) -> list[Resolvable]:
    """The futures in ``value``: itself, or inside lists, tuples, sets and dicts."""
    if isinstance(value, Resolvable):
        return [value]
    kind = cast("type[Any]", type(value))
    if kind in (list, tuple, set, frozenset):
        return [found for item in value for found in resolvables(item)]
    if kind is dict:
        return [found for item in value.values() for found in resolvables(item)]
    return []


def resolved(value: Any) -> Any:
    """``value`` with its futures replaced by their results; itself if there are none.

    Raises:
        UpstreamFailed: one of them did not complete.
    """
    if isinstance(value, Resolvable):
        state = value.final_state()
        if not state.is_completed():
            raise UpstreamFailed(state.name)
        return state.result()
    if not resolvables(value):
        return value
    if type(value) is dict:
        return {key: resolved(item) for key, item in cast("dict[Any, Any]", value).items()}
    return type(value)(resolved(item) for item in value)


def when_done(waited_for: Iterable[Resolvable], callback: Callable[[], object]) -> None:
    """Call ``callback`` once after the last of ``waited_for`` has ended."""
    waiting = list(waited_for)
    if not waiting:
        callback()
        return
    lock = threading.Lock()
    left = len(waiting)

    def one_done() -> None:
        nonlocal left
        with lock:
            left -= 1
            last = left == 0
        if last:
            callback()

    for item in waiting:
        item.on_done(one_done)
