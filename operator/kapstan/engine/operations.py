"""What the steps of a run ask for, and the two drivers that do it: blocking, or on an event loop.

The steps of a task or a flow are generators: they decide, and yield an ``Operation`` for whatever takes time. So each
step is written once. ``drive`` does the operations on this thread, ``adrive`` on the event loop, which it never blocks;
``threads.Submitted`` is a third driver, which holds a thread only while code of the user runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeVar

from kapstan import backend as backends
from kapstan.engine import forks, limits
from kapstan.engine.branch import Branch, number_tasks
from kapstan.engine.functions import asettled, settled
from kapstan.engine.pending import Resolvable, call_on, when_done
from kapstan.engine.waiting import without_place
from kapstan.errors import TaskTimeout

T = TypeVar("T")


class Operation:
    """Something that takes time: done blocking by ``block``, on an event loop by ``on_loop``; both give its answer."""

    __slots__ = ()

    def block(self) -> Any:
        raise NotImplementedError

    async def on_loop(self) -> Any:
        raise NotImplementedError


Steps = Generator[Operation, Any, T]
"""What is asked for, one after the other, and the result."""


def drive(steps: Steps[T], first: Operation | None = None) -> T:
    """Do what ``steps`` ask for, on this thread; their result.

    Args:
        first: what they have asked for already.
    """
    process = forks.process
    try:
        operation = next(steps) if first is None else first
        while True:
            if forks.process is not process:
                forks.leave()
            try:
                answer = operation.block()
            except BaseException as error:  # noqa: BLE001  (the steps decide)
                operation = steps.throw(error)
            else:
                operation = steps.send(answer)
    except StopIteration as end:
        return end.value


async def adrive(steps: Steps[T]) -> T:
    """As ``drive``, on the event loop of the caller."""
    process = forks.process
    try:
        operation = next(steps)
        while True:
            forks.check(process)
            try:
                answer = await operation.on_loop()
            except BaseException as error:  # noqa: BLE001
                forks.check(process)
                operation = steps.throw(error)
            else:
                forks.check(process)
                operation = steps.send(answer)
    except StopIteration as end:
        return end.value


class Call(Operation):
    """Code of the user: a plain function, or a coroutine function.

    Args:
        branch: the branch that this code is; it begins on the thread that makes the call.
    """

    __slots__ = ("args", "branch", "fn", "kwargs")

    def __init__(
        self, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], branch: Branch | None = None
    ) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.branch = branch

    def block(self) -> Any:
        if self.branch is not None:
            self.branch.thread = threading.get_ident()
        if not limits.watched_here():
            return limits.within(None, self._result)
        return self._result()

    async def on_loop(self) -> Any:
        import asyncio

        if self.branch is not None:
            self.branch.thread = threading.get_ident()
            number_tasks(asyncio.get_running_loop())
        process = forks.process
        try:
            result = await asettled(self._called())
        except BaseException as error:
            if forks.process is not process:
                forks.leave(error)
            raise
        forks.check(process)
        return result

    def _called(self) -> Any:
        """What the function gives; of an async one the coroutine."""
        try:
            return self.fn(*self.args, **self.kwargs)
        except GeneratorExit as error:  # to the steps it would say that nobody wants their result
            raise RuntimeError("the code raised GeneratorExit") from error

    def _result(self) -> Any:
        process = forks.process
        try:
            result = settled(self.fn(*self.args, **self.kwargs))
        except BaseException as error:
            if forks.process is not process:
                forks.leave(error)
            if isinstance(error, GeneratorExit):  # to the steps it would say that nobody wants their result
                raise RuntimeError("the code raised GeneratorExit") from error
            raise
        if forks.process is not process:
            forks.leave()
        return result


class Walk(Operation):
    """Further steps as one operation, whose answer is their result."""

    __slots__ = ("steps",)

    def __init__(self, steps: Steps[Any]) -> None:
        self.steps = steps

    def block(self) -> Any:
        return drive(self.steps)

    async def on_loop(self) -> Any:
        return await adrive(self.steps)


class Limited(Operation):
    """``operation``, ended when ``seconds`` are over. Raises as ``limits.within``.

    Attributes:
        expired: whether it was: a ``TaskTimeout`` may also be that of something that was called.
    """

    __slots__ = ("_inner", "expired", "operation", "seconds")

    def __init__(self, seconds: float, operation: Operation) -> None:
        self.seconds = seconds
        self.operation = operation
        self.expired = False
        self._inner: TaskTimeout | None = None

    def block(self) -> Any:
        try:
            return limits.within(self.seconds, self._block)
        except TaskTimeout as error:
            self.expired = error is not self._inner
            raise

    def _block(self) -> Any:
        try:
            return self.operation.block()
        except TaskTimeout as error:
            self._inner = error
            raise

    async def on_loop(self) -> Any:
        try:
            return await limits.awithin(self.seconds, self._on_loop)
        except TaskTimeout as error:
            self.expired = error is not self._inner
            raise

    async def _on_loop(self) -> Any:
        try:
            return await self.operation.on_loop()
        except TaskTimeout as error:
            self._inner = error
            raise


class Sleep(Operation):
    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def block(self) -> None:
        with without_place():
            limits.sleep(self.seconds)

    async def on_loop(self) -> None:
        import asyncio

        await asyncio.sleep(self.seconds)


class Wait(Operation):
    """Until all of ``waited_for`` have ended."""

    __slots__ = ("waited_for",)

    def __init__(self, waited_for: Sequence[Resolvable]) -> None:
        self.waited_for = waited_for

    def block(self) -> None:
        for item in self.waited_for:
            item.final_state()

    async def on_loop(self) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        when_done(self.waited_for, lambda: call_on(loop, ended.set))
        await ended.wait()


class Do(Operation):
    """A call of queue or store, which blocks for a short time."""

    __slots__ = ("args", "function")

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.function = function
        self.args = args

    def block(self) -> Any:
        return self.function(*self.args)

    async def on_loop(self) -> Any:
        return await backends.current().call(self.function, *self.args)


class Write(Operation):
    """Something to be stored: ``now`` returns when it is durable, ``later`` at once and calls back when it is."""

    __slots__ = ("later", "now")

    def __init__(self, now: Callable[[], object], later: Callable[[Callable[[], object]], object]) -> None:
        self.now = now
        self.later = later

    def block(self) -> None:
        self.now()

    async def on_loop(self) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        stored = asyncio.Event()
        self.later(lambda: call_on(loop, stored.set))
        await stored.wait()
