"""Time limits of runs, and how a run that is over its limit is ended.

The code of a run over its limit gets ``TimeUp``, a BaseException, so that no ``except Exception`` of a user's goes on;
if it goes on all the same, it gets another one each second, and ends as timed out whatever it returns. Where the run's
code began, ``TimeUp`` becomes ``TaskTimeout``. Limits nest: a run also ends by the limit of a run that called or
submitted it.

The main thread is interrupted by SIGALRM, which also ends a blocking call. On another thread the exception is set from
a thread of ours: it arrives at the next line of Python, so a blocking call in C ends first. On an event loop it is a
cancellation, which arrives at the next ``await``.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar
from typing import TypeVar

from kapstan.alarm import Alarm
from kapstan.engine import thread_exceptions
from kapstan.errors import CancelRun, Fenced, HandBack, JournalLost, TaskTimeout
from kapstan.main_thread import stretch

T = TypeVar("T")
_AGAIN = 1.0
"""Seconds until ``TimeUp`` is raised again in code that went on after its time was up."""


class TimeUp(BaseException):
    """The time of this run, or of one that waits for it, is up."""


class Limit:
    """One time limit, from its beginning to its end.

    Attributes:
        expires: when it is up, by ``time.monotonic``.
        outer: the limit that this one stands in.
        thread: where it is watched; 0: on an event loop.
        rang: whether ``TimeUp`` was raised in the code.
        over: the code has left; nothing may be raised in it any more.
    """

    __slots__ = ("expires", "outer", "over", "rang", "seconds", "thread")

    def __init__(self, seconds: float | None, outer: Limit | None, thread: int) -> None:
        self.seconds = seconds
        self.outer = outer
        self.thread = thread
        self.rang = False
        self.over = False
        self.expires = float("inf") if seconds is None else time.monotonic() + seconds

    def next_at(self) -> float:
        """When the first of this limit and those around it is up."""
        return self.expires if self.outer is None else min(self.expires, self.outer.next_at())

    def outermost_up(self) -> Limit | None:
        """The widest limit that is up, None if none is."""
        wider = None if self.outer is None else self.outer.outermost_up()
        return wider if wider is not None else (self if time.monotonic() >= self.expires else None)

    def ring(self) -> None:
        """Note that ``TimeUp`` is raised for every limit that is up."""
        if time.monotonic() >= self.expires:
            self.rang = True
        if self.outer is not None:
            self.outer.ring()

    def error(self) -> TaskTimeout:
        return TaskTimeout(f"took longer than timeout_seconds={self.seconds:g}")


_current: ContextVar[Limit | None] = ContextVar("kapstan_limit", default=None)


def remaining() -> float | None:
    """Seconds until the first limit around this code is up; 0.0 if one is, None if there is none."""
    limit = _current.get()
    if limit is None:
        return None
    at = limit.next_at()
    return None if at == float("inf") else max(0.0, at - time.monotonic())


@contextlib.contextmanager
def lifted() -> Generator[None]:
    """No limit counts for what is called or started in it."""
    mark = _current.set(None)
    try:
        yield
    finally:
        _current.reset(mark)


def check() -> None:
    """Raises TimeUp if a limit around this code is up."""
    limit = _current.get()
    if limit is not None and limit.outermost_up() is not None:
        limit.ring()
        raise TimeUp


def wait(ended: threading.Event, timeout: float | None) -> bool:
    """``ended.wait(timeout)``, and ``TimeUp`` when a limit is up first: no signal wakes a thread other than the main
    one."""
    until = math.inf if timeout is None else time.monotonic() + timeout
    while True:
        left = until - time.monotonic()
        limit = remaining()
        nearest = left if limit is None else min(left, limit)
        if ended.wait(stretch(None if nearest == math.inf else max(0.0, nearest))):
            return True
        if until <= time.monotonic():
            return False
        check()  # the clock may say that it woke up a moment too early


def sleep(seconds: float) -> None:
    """``time.sleep`` that ends with ``TimeUp`` when a limit is up first."""
    until = time.monotonic() + seconds
    while (ours := until - time.monotonic()) > 0.0:
        left = remaining()
        time.sleep(ours if left is None else min(ours, left))
        check()


def watched_here() -> bool:
    """Whether nothing need be done for the limits around this code: there are none, or this thread is watched."""
    limit = _current.get()
    return limit is None or limit.thread == threading.get_ident()


def within(seconds: float | None, body: Callable[[], T]) -> T:
    """``body()``, ended when ``seconds`` (None: only the limits around it) are over.

    Raises:
        TaskTimeout: they were over, whatever ``body`` made of it.
        TimeUp: a limit around this one was up first.
    """
    limit = Limit(seconds, _current.get(), threading.get_ident())
    watched = _with_alarm if _has_alarm() else _with_bell
    mark = _current.set(limit)
    try:
        result = watched(limit, body)
    except BaseException as error:
        outcome = _outcome_of(limit, error)
        if outcome is error:
            raise
        raise outcome from (error if isinstance(error, Exception) else None)
    finally:
        _current.reset(mark)
    if limit.rang and seconds is not None:
        raise _outcome_of(limit, TimeUp())
    return result


def interruptible(body: Callable[[], T], begun: Callable[[Limit], object]) -> T:
    """``body()`` on a thread that is not the main one; ``interrupt`` ends it from another.

    Args:
        begun: is given what ``interrupt`` takes.
    """
    limit = Limit(None, _current.get(), threading.get_ident())
    mark = _current.set(limit)
    try:
        begun(limit)
        return _with_bell(limit, body)
    finally:
        _current.reset(mark)


def interrupt(limit: Limit, error: type[BaseException]) -> None:
    """Raise ``error`` in the code under ``limit`` at its next line of Python; nothing if it has left."""
    _bells.interrupt(limit, error)


async def awithin(seconds: float | None, body: Callable[[], Awaitable[T]]) -> T:
    """As ``within``, for a coroutine: it is cancelled, again and again if it goes on."""
    import asyncio

    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    limit = Limit(seconds, _current.get(), 0)
    handle: asyncio.TimerHandle | None = None
    cancels = 0

    def ring() -> None:
        nonlocal handle, cancels
        limit.rang = True
        cancels += 1
        task.cancel()
        handle = loop.call_later(_AGAIN, ring)

    if seconds is not None:
        handle = loop.call_later(seconds, ring)
    mark = _current.set(limit)
    try:
        result = await body()
    except asyncio.CancelledError:
        if not limit.rang or task.cancelling() > cancels:  # somebody else cancelled it, too: theirs goes on
            raise
        raise limit.error() from None
    except BaseException as error:
        outcome = _outcome_of(limit, error)
        if outcome is error:
            raise
        raise outcome from (error if isinstance(error, Exception) else None)
    finally:
        _current.reset(mark)
        if handle is not None:
            handle.cancel()
        for _ in range(cancels):
            task.uncancel()
    if limit.rang:
        raise limit.error()
    return result


def _outcome_of(limit: Limit, error: BaseException) -> BaseException:
    """What ``error``, raised under ``limit``, is to those outside of it: what tells this process to end stays."""
    up = limit.outermost_up() if isinstance(error, TimeUp) or limit.rang else None
    if up is None or isinstance(error, (Fenced, HandBack, CancelRun, JournalLost, KeyboardInterrupt)):
        return error
    return limit.error() if up is limit else TimeUp()


# ---------------------------------------------------------------------------------------------- the main thread


def _has_alarm() -> bool:
    """A handler of SIGALRM that is not Python's could not be set again: it is left alone."""
    return threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGALRM) is not None


def _with_alarm(limit: Limit, body: Callable[[], T]) -> T:
    """SIGALRM when a limit is up, and every second after that. An alarm of somebody else's goes on."""

    def ring() -> None:
        if not limit.over and limit.outermost_up() is not None:
            limit.ring()
            raise TimeUp

    alarm = Alarm(limit.next_at(), _AGAIN, ring)
    try:
        alarm.take()
        return body()
    finally:
        limit.over = True  # first: from here on nothing rings
        alarm.give_back()


# ---------------------------------------------------------------------------------------------- other threads


class _Bells:
    """The thread that raises ``TimeUp`` in other threads when their time is up."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._due: list[tuple[float, int, Limit]] = []
        self._numbers = itertools.count()
        self._watched: set[Limit] = set()
        self._told: set[int] = set()  # threads in which an exception may be set that has not arrived
        self._thread: threading.Thread | None = None

    def add(self, limit: Limit) -> None:
        with self._lock:
            self._watched.add(limit)
            if limit.next_at() == float("inf"):
                return
            heapq.heappush(self._due, (limit.next_at(), next(self._numbers), limit))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="kapstan-limits", daemon=True)
                self._thread.start()
            self._changed.notify()

    def interrupt(self, limit: Limit, error: type[BaseException]) -> None:
        with self._lock:
            if limit in self._watched:
                self._tell(limit.thread, error)

    def drop(self, limit: Limit) -> None:
        """Raise nothing more in its thread, which is this one; what is set there and has not arrived is taken back."""
        with self._lock:
            self._watched.discard(limit)
            if limit.thread in self._told:
                thread_exceptions.take_back()
                self._told.discard(limit.thread)
            limit.over = True

    def _tell(self, thread: int, error: type[BaseException]) -> None:
        self._told.add(thread)
        thread_exceptions.set_in(thread, error)

    def _run(self) -> None:
        with self._lock:
            while True:
                now = time.monotonic()
                if not self._due or self._due[0][0] > now:
                    self._changed.wait(min(self._due[0][0] - now, 3600.0) if self._due else None)
                    continue
                _, _, limit = heapq.heappop(self._due)
                if limit in self._watched:
                    limit.ring()
                    self._tell(limit.thread, TimeUp)
                    heapq.heappush(self._due, (now + _AGAIN, next(self._numbers), limit))


def _with_bell(limit: Limit, body: Callable[[], T]) -> T:
    try:
        _bells.add(limit)
        return body()
    finally:
        while not limit.over:
            try:
                _bells.drop(limit)
            except (TimeUp, CancelRun, HandBack):  # set before, and seen only here
                continue


_bells = _Bells()


def _after_fork() -> None:
    global _bells
    _bells = _Bells()


os.register_at_fork(after_in_child=_after_fork)
