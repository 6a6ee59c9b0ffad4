"""Futures: runs submitted in a flow of this process, and background runs by id from any process.

``Future(task_run_id=...)`` is all that a web handler needs to ask for a run that another process submitted. Waiting on
background runs goes through ``Queue.wait``: one connection serves every waiting thread, nothing polls.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, cast
from uuid import UUID

from kapstan import backend as backends
from kapstan import ids, states
from kapstan.context import current_flow
from kapstan.engine import background_states, outages, watcher
from kapstan.engine.pending import Pending, Resolvable, UserCallback, call_on
from kapstan.engine.waiting import without_place
from kapstan.errors import Parked, QueueUnavailable, StoreUnavailable, UnknownRun
from kapstan.ids import RunId
from kapstan.states import State

R = TypeVar("R")
T = TypeVar("T")


class Future(Resolvable, Generic[R]):
    """A run and its coming result. Two futures are equal if they are of the same run.

    Args:
        task_run_id: UUID or text of a background run, as ``future.task_run_id`` gave it.
    """

    __slots__ = ("_pending", "_run_id")

    def __init__(self, task_run_id: UUID | str, *, pending: Pending | None = None) -> None:
        self._run_id: RunId = ids.parse(task_run_id)
        self._pending = pending

    @property
    def task_run_id(self) -> UUID:
        return ids.to_uuid(self._run_id)

    @property
    def state(self) -> State:
        """The state of the run now. ``Pending`` for a background run that neither the queue knows (any more) nor the
        store, where ``persist_result`` puts results; ``result`` raises ``UnknownRun`` for it."""
        if self._pending is not None:
            return self._pending.state.of_run(self._run_id)
        return (_look(self._run_id) or _UNKNOWN).of_run(self._run_id)

    def wait(self, timeout: float | None = None) -> None:
        """Block until the run has ended, at most ``timeout`` seconds; it does not raise when these are over.

        In a flow it also waits for a queue that is away.

        Raises:
            QueueUnavailable: the queue is away, and this is no flow.
        """
        if self._pending is not None:
            self._pending.wait(timeout)
        elif _journalled(self._run_id) is None:
            with without_place():
                _ended_of([self._run_id], None if timeout is None else time.monotonic() + timeout)

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> R:
        """What the run returned.

        Raises:
            TimeoutError: it has not ended within ``timeout`` seconds.
            ParkedRun: its effect is in doubt until a person or a probe decides; a flow parks with it.
            UnknownRun: neither the queue knows the run (any more), nor is a result of it stored.
            Exception: the run's own exception (returned instead with ``raise_on_failure=False``).
        """
        end = None if timeout is None else time.monotonic() + timeout
        self.wait(timeout)
        try:
            state = self._ended_state(end)
        except (QueueUnavailable, StoreUnavailable) as error:
            if current_flow.get() is None or end is None:
                raise
            raise TimeoutError(f"whether run {self.task_run_id} has ended cannot be asked: {error}") from error
        if state.is_paused() and (flow := current_flow.get()) is not None:
            raise flow.stop(Parked(state.message, state.data))
        if not (state.is_final() or state.is_paused() or self._not_ready(state)):
            raise TimeoutError(f"run {self.task_run_id} has not ended within {timeout} seconds; it is {state.name}")
        return cast("R", state.result(raise_on_failure=raise_on_failure))

    async def wait_async(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  (the field's name)
        """As ``wait``, without blocking the event loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        self.on_done(functools.partial(call_on, loop, ended.set))
        with without_place(), contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), timeout)

    async def result_async(
        self,
        timeout: float | None = None,  # noqa: ASYNC109  (the field's name)
        raise_on_failure: bool = True,
    ) -> R:
        """As ``result``, without blocking the event loop."""
        await self.wait_async(timeout)
        if self._pending is not None:
            return self.result(0, raise_on_failure)
        return await backends.current().call(self.result, None if timeout is None else 0, raise_on_failure)

    @property
    def is_background(self) -> bool:
        """Whether the run is in the queue (``.delay()``, ``.submit()`` outside a flow) and not in a flow of this
        process."""
        return self._pending is None

    def add_done_callback(self, fn: Callable[[Future[R]], object]) -> None:
        """Call ``fn(future)`` once when the run has ended: now if it has, else later on another thread. An error in
        ``fn`` is logged."""
        self.on_done(UserCallback(fn, self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Future) and cast("Future[Any]", other)._run_id == self._run_id

    def __hash__(self) -> int:
        return hash(self._run_id)

    def __repr__(self) -> str:
        return f"Future(task_run_id={str(self.task_run_id)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._pending is not None:
            raise TypeError("a future of .submit() lives in this process only; send the result, or use .delay()")
        return (Future, (str(self.task_run_id),))

    # ------------------------------------------------------------------ what the engine asks (see Resolvable)

    @property
    def memo_reference(self) -> str:
        return self._run_id

    @property
    def done(self) -> bool:
        return self._pending.done if self._pending is not None else self.state.is_final()

    def final_state(self) -> State:
        self.wait()
        return self._ended_state()

    def on_done(self, callback: Callable[[], object]) -> None:
        if self._pending is not None:
            self._pending.on_done(callback)
        elif _journalled(self._run_id) is not None:
            callback()
        else:
            watcher.add(self._run_id, callback)

    def _ended_state(self, end: float | None = None) -> State:
        """``state`` for whoever has waited: a run that the queue does not know does not come any more."""
        if self._pending is not None:
            return self.state
        state = _asked(lambda: _look(self._run_id), end)
        if state is not None:
            return state.of_run(self._run_id)
        error = UnknownRun(f"run {self.task_run_id}: {UnknownRun.__doc__}")
        return states.Crashed(name="Unknown", message=str(error), data=error).of_run(self._run_id)

    def _not_ready(self, state: State) -> bool:
        return self._pending is not None and self._pending.done and not state.is_final()


_future: type[Future[Any]] = Future  # a call of Future[Any] itself costs a microsecond more


def future_of(run_id: RunId) -> Future[Any]:
    """The future of a run whose id was made here, and need not be checked: every submit passes here."""
    future = object.__new__(_future)
    future._run_id, future._pending = run_id, None  # pyright: ignore[reportPrivateUsage]
    return future


class FutureList(list[Future[R]]):
    """Futures in the order of the inputs, as ``map`` gives them."""

    def wait(self, timeout: float | None = None) -> None:
        """Block until all have ended, at most ``timeout`` seconds."""
        wait(self, timeout)

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> list[R]:
        """All results, in order; the first failure is raised as soon as it happens.

        Raises:
            TimeoutError: not all have ended within ``timeout`` seconds.
        """
        for future in as_completed(self, timeout):
            if raise_on_failure:
                future.result(0)
        return [future.result(0, raise_on_failure) for future in self]


class DoneAndNotDone(NamedTuple, Generic[T]):
    """What ``wait`` returns."""

    done: set[Future[T]]
    not_done: set[Future[T]]


def wait(futures: Iterable[Future[T]], timeout: float | None = None) -> DoneAndNotDone[T]:
    """Block until all ``futures`` have ended, or ``timeout`` seconds have passed: ``(done, not_done)``.

    Raises:
        ValueError: a negative timeout.
    """
    left = set(futures)
    done: set[Future[T]] = set()
    for future in _ending(left, _deadline(timeout)):
        done.add(future)
    return DoneAndNotDone(done, left - done)


def as_completed(futures: Sequence[Future[T]], timeout: float | None = None) -> Generator[Future[T]]:
    """The futures as their runs end; each once.

    Raises:
        TimeoutError: some have not ended within ``timeout`` seconds; the message says how many.
        ValueError: a negative timeout.
    """
    wanted = set(futures)
    done = 0
    for future in _ending(wanted, _deadline(timeout)):
        done += 1
        yield future
    if done < len(wanted):
        raise TimeoutError(f"{len(wanted) - done} of {len(wanted)} runs have not ended within {timeout} seconds")


def _deadline(timeout: float | None) -> float | None:
    if timeout is not None and timeout < 0:
        raise ValueError(f"timeout={timeout}: give None or seconds from 0 on")
    return None if timeout is None else time.monotonic() + timeout


def _ending(futures: set[Future[T]], deadline: float | None) -> Generator[Future[T]]:
    """The futures as they end, until the deadline (of ``time.monotonic``)."""
    if all(future.is_background for future in futures):
        yield from _ending_in_queue({future.memo_reference: future for future in futures}, deadline)
        return
    lock = threading.RLock()
    changed = threading.Condition(lock)
    ended: list[Future[T]] = []

    def note(future: Future[T]) -> None:
        with lock:
            ended.append(future)
            changed.notify()

    for future in futures:
        future.add_done_callback(note)
    for _ in range(len(futures)):
        with lock:
            if not changed.wait_for(lambda: ended, _left(deadline)):
                return
            future = ended.pop(0)
        yield future


def _ending_in_queue(left: dict[RunId, Future[T]], deadline: float | None) -> Generator[Future[T]]:
    for run_id in [run_id for run_id in left if _journalled(run_id) is not None]:
        yield left.pop(run_id)
    while left:
        ended = _ended_of(list(left), deadline)
        if not ended:
            return
        for run_id in ended:
            yield left.pop(run_id)


def _ended_of(run_ids: list[RunId], deadline: float | None) -> set[RunId]:
    """Those that have ended, as soon as there is one; none when the deadline is over."""
    try:
        return _asked(lambda: backends.current().queue.wait(run_ids, _left(deadline)), deadline)
    except QueueUnavailable:
        if current_flow.get() is None or deadline is None or time.monotonic() < deadline:
            raise
        return set()


def _asked(ask: Callable[[], T], deadline: float | None) -> T:
    """What the queue says; a flow has work to lose, and waits for a queue that is away until the deadline."""
    flow = current_flow.get()
    if flow is None:
        return ask()
    return outages.waited_for(flow, "The queue cannot be asked for a run that is waited for", ask, deadline)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


# ---------------------------------------------------------------------------------------------- background runs


_UNKNOWN = states.Pending(message="the queue does not know this run: not submitted yet, lost, or expired")


def _journalled(run_id: RunId) -> State | None:
    """How a run ended that the flow which runs here had submitted and seen the end of: the queue need not be asked."""
    flow = current_flow.get()
    while flow is not None:
        known = flow.delayed.state(run_id)
        if known is not None:
            return known
        flow = flow.parent
    return None


def _look(run_id: RunId) -> State | None:
    """Where a run stands; None if nobody knows it. A flow that submitted it journals the end that it sees."""
    known = _journalled(run_id)
    if known is not None:
        return known
    seen = background_states.look(backends.current(), run_id)
    if seen is None:
        return None
    flow = current_flow.get()
    while flow is not None and seen.state.is_final():
        flow.delayed.seen(run_id, seen.state, seen.envelope)
        flow = flow.parent
    return seen.state
