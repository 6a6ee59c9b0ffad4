"""A run in this process whose end others wait for, and how futures among arguments become values.

``futures.Future`` wraps a ``Pending``; the engine itself knows only this and ``Resolvable``, so that it need not
import the surface above it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, cast

from kapstan import states
from kapstan.engine import limits
from kapstan.engine.waiting import without_place
from kapstan.ids import RunId
from kapstan.states import State

logger = logging.getLogger("kapstan.engine")


class Resolvable:
    """An argument that stands for a later value: a future."""

    __slots__ = ()

    @property
    def memo_reference(self) -> str:
        """The id that stands for it in memo keys: that of its run."""
        raise AttributeError("memo_reference")

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        raise AttributeError("done")

    @property
    def is_background(self) -> bool:
        """Whether it is a run of the queue, which any process can ask for by its id."""
        return False

    def final_state(self) -> State:
        """Wait for the run and give its final state."""
        raise AttributeError("final_state")

    def on_done(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` once when the run has ended; at once if it has."""
        raise AttributeError(f"on_done({callback})")


class Pending(Resolvable):
    """A submitted run of this process: its state, and the callbacks for its end."""

    __slots__ = ("_callbacks", "_done", "_ended", "_lock", "run_id", "state")

    def __init__(self, run_id: RunId) -> None:
        self.run_id = run_id
        self.state: State = states.Pending()
        self._lock = threading.Lock()
        self._done = False
        self._ended: threading.Event | None = None  # made by the first that waits
        self._callbacks: list[Callable[[], object]] = []

    @property
    def memo_reference(self) -> str:
        return self.run_id

    @property
    def done(self) -> bool:
        return self._done

    def final_state(self) -> State:
        self.wait()
        return self.state

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it has ended; False if ``timeout`` seconds passed before. The thread gives up its place."""
        with self._lock:
            if self._done:
                return True
            if self._ended is None:
                self._ended = threading.Event()
        with without_place():
            return limits.wait(self._ended, timeout)

    def finish(self, state: State) -> None:
        """Set the last state and call the callbacks. A ``NotReady`` state can be the last one, too."""
        with self._lock:
            self.state = state
            self._done = True
            callbacks, self._callbacks = self._callbacks, []
            if self._ended is not None:
                self._ended.set()
        for callback in callbacks:
            run_callback(callback)

    def on_done(self, callback: Callable[[], object]) -> None:
        with self._lock:
            if not self._done:
                self._callbacks.append(callback)
                return
        callback()


class UserCallback:
    """``fn(*args)`` as a callback of a run: an error in it is logged with its name and ends nothing else. What is no
    ``Exception`` passes, so that Ctrl-C or a time limit ends the caller of a callback that is called at once.
    """

    __slots__ = ("args", "fn")

    def __init__(self, fn: Callable[..., object], *args: Any) -> None:
        self.fn = fn
        self.args = args

    def __call__(self) -> None:
        try:
            self.fn(*self.args)
        except Exception as error:  # noqa: BLE001  (it is logged)
            _log_error(self, error)


def run_callback(callback: Callable[[], object]) -> None:
    """Call ``callback``; whatever it raises is logged with its name: the thread that calls it serves others, too."""
    try:
        callback()
    except BaseException as error:  # noqa: BLE001  (it is logged)
        _log_error(callback, error)


def _log_error(callback: Callable[[], object], error: BaseException) -> None:
    function = callback.fn if isinstance(callback, UserCallback) else callback
    name = getattr(function, "__qualname__", repr(function))
    logger.error("Error in the callback %s of a run", name, exc_info=error)


def call_on(loop: Any, callback: Callable[[], object]) -> None:
    """Call ``callback`` on ``loop``, from any thread; nobody waits on a loop that is closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)


class UpstreamFailed(Exception):
    """An argument stands for a run that did not complete."""


_SCALARS = frozenset({str, int, float, bool, type(None), bytes})
_COLLECTIONS = frozenset({list, tuple, set, frozenset})


def promises(value: Any) -> list[Resolvable]:
    """The futures in ``value``: itself, or inside lists, tuples, sets and dicts."""
    found: list[Any] = []
    _collect(value, found, set())
    return [item for item in found if isinstance(item, Resolvable)]


def has_promises(value: Any) -> bool:
    """Whether there are futures or states in ``value``."""
    if not value or (type(value) in _COLLECTIONS and _SCALARS.issuperset(map(type, value))):
        return False
    found: list[Any] = []
    _collect(value, found, set())
    return bool(found)


def _collect(value: Any, found: list[Any], seen: set[int]) -> None:
    """Each container is looked into once, however often it is referred to."""
    kind = cast("type[Any]", type(value))
    if kind in _SCALARS:
        return
    if kind in _COLLECTIONS or kind is dict:
        if not value or id(value) in seen:
            return
        seen.add(id(value))
        for item in value.values() if kind is dict else value:
            if type(item) not in _SCALARS:
                _collect(item, found, seen)
    elif isinstance(value, (Resolvable, State)):
        found.append(value)


def resolved(value: Any) -> Any:
    """``value`` with its futures and states replaced by their results; itself if there are none.

    Raises:
        UpstreamFailed: one of them did not complete.
    """
    return _resolved(value, {}) if has_promises(value) else value


def _resolved(value: Any, made: dict[int, Any]) -> Any:
    """``made`` holds what the containers have become, so that what is shared or circular stays so."""
    if isinstance(value, Resolvable):
        return _result(value.final_state())
    if isinstance(value, State):
        return _result(value)
    kind = cast("Callable[[Iterable[Any]], Any]", type(value))
    if kind not in _COLLECTIONS and kind is not dict:
        return value
    if id(value) in made:
        return made[id(value)]
    copy: Any
    if kind is dict:
        copy = made[id(value)] = {}
        copy.update((key, _resolved(item, made)) for key, item in value.items())
    elif kind is list:
        copy = made[id(value)] = []
        copy.extend(_resolved(item, made) for item in value)
    else:
        copy = made[id(value)] = kind(_resolved(item, made) for item in value)
    return copy


def _result(state: State) -> Any:
    if not state.is_completed():
        raise UpstreamFailed(state.name)
    return state.result()


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


def not_ready(wait_for: Iterable[Any]) -> State | None:
    """Wait for the runs in ``wait_for``; the state ``NotReady`` if one of them did not complete, else None."""
    try:
        for item in wait_for:
            if isinstance(item, State) and not item.is_completed():
                raise UpstreamFailed(item.name)
            resolved(item)
    except UpstreamFailed as error:
        return states.Pending(name="NotReady", message=f"something that it waits for ended as {error}")
    return None


async def until_done(values: Iterable[Any]) -> None:
    """Wait for the runs in ``values`` on the running event loop, without blocking it."""
    import asyncio

    waited_for = promises(list(values))
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    when_done(waited_for, lambda: call_on(loop, ended.set))
    await ended.wait()
