"""SIGALRM and the timer behind it, borrowed: whoever had them has them again afterwards, and is served meanwhile.

A process has one such timer (``setitimer``). A time limit takes it while an alarm of somebody else may be set: of a
test runner, a web server, or the user's own code.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

_NEVER = float("inf")
_SOON, _LATEST = 1e-6, 1e8  # seconds; to setitimer 0 means never


class Theirs:
    """The alarm as somebody else has it.

    Attributes:
        handler: of SIGALRM.
        due: when it rings, by ``time.monotonic``.
        interval: seconds from one ring to the next; 0.0: it rings once.
    """

    __slots__ = ("due", "handler", "interval")

    def __init__(self) -> None:
        left, self.interval = signal.getitimer(signal.ITIMER_REAL)
        self.due = time.monotonic() + left if left > 0.0 else _NEVER
        self.handler: Any = signal.getsignal(signal.SIGALRM)

    def deliver(self, number: int, frame: FrameType | None) -> None:
        """What SIGALRM would do to them now."""
        if callable(self.handler):
            self.handler(number, frame)
        elif self.handler == signal.SIG_DFL:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGALRM)

    def go_on(self) -> None:
        """Set their handler and what is left of their timer; one that is due by now rings at once."""
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, self.handler)
        if self.due != _NEVER:
            signal.setitimer(signal.ITIMER_REAL, max(self.due - time.monotonic(), _SOON), self.interval)


class Alarm:
    """An alarm of ours, on the main thread, nested as calls are.

    Args:
        due: when ``ring`` is called first, by ``time.monotonic``.
        again: seconds after which it is called again, until the alarm is given back.
        ring: may raise.
    """

    def __init__(self, due: float, again: float, ring: Callable[[], object]) -> None:
        self._due = due
        self._again = again
        self._ring = ring
        self._process = os.getpid()
        self._over = False
        self._before: Theirs | None = None
        self._theirs: Theirs | None = None

    def take(self) -> None:
        before = Theirs()
        below = getattr(before.handler, "__self__", None)
        self._theirs = below._theirs if isinstance(below, Alarm) and below._process == self._process else before
        self._before = before
        signal.signal(signal.SIGALRM, self._rang)
        self._arm()

    def give_back(self) -> None:
        """All is as it was, whatever handlers of other signals raise meanwhile; that is raised afterwards."""
        self._over = True
        raised: BaseException | None = None
        while self._before is not None:
            try:
                self._restore(self._before)
            except BaseException as error:  # noqa: BLE001
                raised = error
        if raised is not None:
            raise raised

    def _restore(self, before: Theirs) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before.handler)
        below = getattr(before.handler, "__self__", None)
        if isinstance(below, Alarm):
            due, interval = below._next(), below._again
        else:
            due, interval = before.due, before.interval
        left = _NEVER if os.getpid() != self._process else due - time.monotonic()  # a forked process has no timers
        left = 0.0 if left == _NEVER else max(left, _SOON)
        # No handler runs between these two; the last one may raise what theirs does.
        self._before = None
        signal.setitimer(signal.ITIMER_REAL, left, interval)

    def _rang(self, number: int, frame: FrameType | None) -> None:
        if self._over or self._theirs is None:
            return
        now, theirs = time.monotonic(), self._theirs
        if now >= theirs.due:
            theirs.due = now + theirs.interval if theirs.interval > 0.0 else _NEVER
            self._arm()
            theirs.deliver(number, frame)
        elif now >= self._due:
            self._due = now + self._again
            self._arm()
            self._ring()
        else:
            self._arm()  # it came early

    def _next(self) -> float:
        return self._due if self._theirs is None else min(self._due, self._theirs.due)

    def _arm(self) -> None:
        """The interval helps where a handler of another signal raises before this one has set the timer anew."""
        left = min(max(self._next() - time.monotonic(), _SOON), _LATEST)
        signal.setitimer(signal.ITIMER_REAL, left, self._again)
