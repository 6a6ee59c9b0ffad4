"""The threads of ``.submit()`` in a flow, and the driver that runs a submitted call on them.

At most ``limit`` of them run code at a time. One that waits (for a future, for a retry) gives up its place meanwhile,
and another goes on: calls that submit further calls and wait for them cannot use the threads up. The threads are
daemons: a process that ends does not wait for them.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import Context
from typing import Any

from kapstan.engine import forks
from kapstan.engine.loops import loops
from kapstan.engine.operations import Operation, Steps, Wait, Write
from kapstan.engine.pending import when_done
from kapstan.engine.waiting import belongs_to
from kapstan.states import State

logger = logging.getLogger("kapstan.engine")
_IDLE_SECONDS = 5.0
"""How long a thread without work stays."""


class Threads:
    """Runs functions on at most ``limit`` threads at a time, in the order in which they were given."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._numbers = itertools.count()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._work: deque[Callable[[], object]] = deque()
        self._running = 0  # threads that have a place
        self._idle = 0  # threads that wait for work; they have none
        self._returning = 0  # threads that want their place back
        self._closed = False

    def run(self, function: Callable[[], object]) -> None:
        """Call ``function`` on a thread, as soon as there is a place; dropped after ``close``."""
        with self._lock:
            if self._closed:
                return
            self._work.append(function)
            self._start_if_free()

    def close(self) -> None:
        """Begin nothing more. What runs goes on."""
        with self._lock:
            self._closed = True
            self._work.clear()
            self._changed.notify_all()

    @contextmanager
    def without_place(self) -> Generator[None]:
        """Give up the place of this thread, and take one again at the end: before any work that waits."""
        with self._lock:
            self._running -= 1
            self._start_if_free()
        try:
            yield
        finally:
            with self._lock:
                self._returning += 1
                try:
                    self._changed.wait_for(lambda: self._running < self._limit or self._closed)
                finally:
                    self._returning -= 1
                    self._running += 1

    def _start_if_free(self) -> None:
        """See to it that a thread takes the work, if there are work and a place."""
        if self._running >= self._limit or (not self._work and not self._returning):
            return
        if self._returning or self._idle:
            self._changed.notify_all()
        if self._work and not self._idle and not self._closed:
            self._running += 1
            name = f"{self._name}-{next(self._numbers)}"
            threading.Thread(target=self._serve, name=name, daemon=True).start()

    def _serve(self) -> None:
        """The life of one thread, which begins with a place."""
        belongs_to(self)
        while True:
            with self._lock:
                function = self._next()
            if function is None:
                loops.close()
                return
            try:
                function()
            except BaseException:  # the thread lives on; whoever gave the function hears of its own errors
                logger.exception("A submitted call ended in a way that nobody handles")

    def _next(self) -> Callable[[], object] | None:
        """The next work; None if there was none for a while. The thread has a place before and, with work, after it."""
        if self._work and not self._returning:
            return self._work.popleft()
        self._running -= 1
        self._changed.notify_all()
        self._idle += 1
        try:
            free = lambda: self._closed or (self._work and not self._returning and self._running < self._limit)  # noqa: E731
            if not self._changed.wait_for(free, _IDLE_SECONDS) or self._closed:
                return None
            self._running += 1
            return self._work.popleft()
        finally:
            self._idle -= 1


class Submitted:
    """Drives the steps of one submitted call: on ``threads`` while it does something, on none while it waits.

    Args:
        context: the context of the call.
        begun: called when its code begins to run.
        ended: called once, with the final state, or with what ended the steps before they came to one.
    """

    def __init__(
        self,
        steps: Steps[State],
        threads: Threads,
        context: Context,
        begun: Callable[[], object],
        ended: Callable[[State | BaseException], object],
    ) -> None:
        self._steps = steps
        self._threads = threads
        self._context = context
        self._begun = begun
        self._ended = ended
        self._process = forks.process

    def start(self) -> None:
        """Go as far as that takes no time: a replayed call has ended when this returns."""
        operation = self._ask(self._steps.send, None)
        if operation is not None:
            self._later(operation)

    def _later(self, operation: Operation) -> None:
        if type(operation) is Wait:
            when_done(operation.waited_for, self._go_on)
        else:
            self._threads.run(lambda: self._do(operation))

    def _go_on(self) -> None:
        self._threads.run(lambda: self._do_all(self._ask(self._steps.send, None)))

    def _do(self, operation: Operation) -> None:
        self._begun()
        self._do_all(operation)

    def _do_all(self, operation: Operation | None) -> None:
        """Do one operation after the other, until the end or until there is something to wait for."""
        while operation is not None:
            forks.check(self._process)
            if type(operation) is Wait:
                self._later(operation)
                return
            if isinstance(operation, Write):
                operation.later(self._stored)  # not in the context, which the answer needs, perhaps at once
                return
            try:
                answer = self._context.run(operation.block)
            except BaseException as error:  # noqa: BLE001  (the steps decide)
                operation = self._ask(self._steps.throw, error)
            else:
                operation = self._ask(self._steps.send, answer)

    def _stored(self) -> None:
        """On the journal's thread, which runs no code of the user's."""
        operation = self._ask(self._steps.send, None)
        if operation is not None:
            self._later(operation)

    def _ask(self, ask: Callable[[Any], Operation], answer: Any) -> Operation | None:
        """The next operation; None at the end, after ``ended`` was called."""
        try:
            return self._context.run(ask, answer)
        except StopIteration as end:
            outcome = end.value
        except BaseException as error:  # noqa: BLE001  (the flow is told)
            outcome = error
        self._ended(outcome)  # outside of the handlers: what a callback raises did not come of these
        del outcome
        return None
