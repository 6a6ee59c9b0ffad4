"""Keyed: a run whose key is known to be done is not executed; one with an effect says so before its effect, durably.

``pure``: the result that is there and fresh is the run's (state ``Cached``); else it is executed and the result kept,
unless another run was faster. Other classes: the intent is written first, and what becomes of it after; whoever finds
the intent of another run waits, takes over or parks, as the class says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

from kapstan.engine import cache_key, key_lock, key_watch, retries, returns
from kapstan.engine.execution import Next, TaskExecution
from kapstan.engine.key_lock import KeyLock, Turn
from kapstan.engine.keyed import BEGUN, Held, KeyedRun, NotYet
from kapstan.engine.operations import Do, Sleep, Steps, Wait
from kapstan.errors import BackendError, ConfigurationError, Fenced, KapstanError, StoreUnsafe
from kapstan.ports import Entry, RegisterKey
from kapstan.runs import deaths
from kapstan.states import EffectClass, State

logger = logging.getLogger("kapstan.task_runs")
_around: ContextVar[frozenset[RegisterKey]] = ContextVar("keys of the runs around", default=frozenset())
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_BACK_SECONDS = 0.1
"""For how long a background run goes back to the queue while another one holds its key."""


def keyed(execution: TaskExecution, proceed: Next) -> Steps[State]:
    spec = execution.spec
    try:
        key = yield Do(cache_key.key_of, execution)
        if key is None:
            if execution.ledger.instead is not None:
                return execution.ledger.instead
            return (yield from proceed(execution))
        inputs = cache_key.inputs_of(execution)
        register = RegisterKey(spec.identity, key, spec.key_storage)
        run = KeyedRun(execution, execution.ledger.its_backend(), register, inputs)
    except BackendError:
        raise
    except KapstanError as error:
        return returns.failed(error, "Task run was not executed")
    if spec.effect is EffectClass.PURE:
        return (yield from _cached(execution, proceed, run))
    return (yield from _ordered(execution, proceed, run))


def _cached(execution: TaskExecution, proceed: Next, run: KeyedRun) -> Steps[State]:
    """A pure run whose store is away is executed all the same: nothing happens twice that may not."""
    try:
        known = yield Do(run.cached)
    except StoreUnsafe:
        raise
    except BackendError as error:
        logger.warning("The cache of %s cannot be read, it is executed: %s", execution.spec.name, error)
        return (yield from proceed(execution))
    except KapstanError as error:
        return returns.failed(error, "The cache of the task cannot be read")
    if known is not None:
        return known

    def again() -> State | None:
        try:
            return run.cached()
        except BackendError:
            return None

    return (yield from _in_line(execution, run, again, lambda: _published(execution, proceed, run)))


def _published(execution: TaskExecution, proceed: Next, run: KeyedRun) -> Steps[State]:
    mark = _around.set(_around.get() | {run.key})
    try:
        state = yield from proceed(execution)
    finally:
        _around.reset(mark)
    if not state.is_completed():
        return state
    try:
        return (yield Do(run.publish, state))
    except KapstanError as error:
        logger.warning("The result of %s is not cached: %s", execution.spec.name, error)
        return state


def _in_line(
    execution: TaskExecution, run: KeyedRun, known: Callable[[], State | None], work: Callable[[], Steps[State]]
) -> Steps[State]:
    """What ``work`` makes, once it is the run's turn by the lock manager of its policy, if that has one; or what
    ``known`` finds meanwhile. A manager that is away: a pure task works all the same, any other does not."""
    spec, ledger, pause = execution.spec, execution.ledger, _FIRST_PAUSE
    while True:
        lock = key_lock.of(spec, ledger.its_backend(), run.key, execution.run.run_id)
        if lock is None or run.key in _around.get():
            return (yield from work())
        is_made = False
        try:
            state = yield from _in_turn(execution, lock, known, work)
            is_made = state.is_completed()
        except key_lock.NoTurn as refused:
            error = refused.error
        except BaseException:
            lock.leave_later()
            raise
        else:
            yield Do(partial(lock.leave, is_made=is_made))
            return state
        yield Do(lock.leave)
        if spec.effect is EffectClass.PURE:
            logger.warning("Nobody orders the callers of %s, it is executed: %s", spec.name, error)
            return (yield from work())
        if not isinstance(error, BackendError):
            return returns.failed(error, "Task run was not executed")
        if not ledger.waits_for_store:
            raise error
        logger.warning("Run %s of %s waits for its lock manager: %s", execution.run.name, spec.name, error)
        yield Sleep(pause)
        ledger.check_stopped()
        pause = min(2 * pause, _LONGEST_PAUSE)


def _in_turn(
    execution: TaskExecution, lock: KeyLock, known: Callable[[], State | None], work: Callable[[], Steps[State]]
) -> Steps[State]:
    """
    Raises:
        NoTurn: the lock manager raised.
    """
    ledger = execution.ledger
    while True:
        turn = yield from lock.turn(waits=ledger.waits_in_place)
        if turn is Turn.NOT_NOW:
            return ledger.not_now(execution, _BACK_SECONDS)
        ledger.check_stopped()
        try:
            found = yield from _asked(execution, known, forever=ledger.waits_for_store)
        except BackendError:
            raise
        except KapstanError as error:
            return returns.failed(error, "Task run was not executed")
        if found is not None:
            return found
        if turn is Turn.MINE:
            return (yield from work())


def _ordered(execution: TaskExecution, proceed: Next, run: KeyedRun) -> Steps[State]:
    """A run whose policy has a lock manager looks first, so that it knows whose end it waits for in the line."""
    if run.key in _around.get():
        text = (
            f"the code of {execution.spec.name} calls it under its own key ({run.key.text}), and would wait for itself"
        )
        return returns.failed(ConfigurationError(text), "Task run was not executed")
    if not key_lock.orders(execution.spec):
        return (yield from _once(execution, proceed, run))
    try:
        known = yield from _asked(execution, run.known, forever=execution.ledger.waits_for_store)
    except BackendError:
        raise
    except KapstanError as error:
        return returns.failed(error, "Task run was not executed")
    if known is not None:
        return known
    return (yield from _in_line(execution, run, run.known, lambda: _once(execution, proceed, run)))


def _once(execution: TaskExecution, proceed: Next, run: KeyedRun) -> Steps[State]:
    ledger = execution.ledger
    seen: Entry | None = None
    while True:
        try:
            answer = yield from _asked(execution, partial(run.look, seen), forever=ledger.waits_for_store)
        except BackendError as error:
            run.broken_off(error)
            raise
        except KapstanError as error:
            return returns.failed(error, "Task run was not executed")
        except BaseException as error:
            run.broken_off(error)
            raise
        seen = None
        if answer is BEGUN:
            try:
                answer = yield from _executed(execution, proceed, run)
            except BaseException as error:
                if not run.is_given_up:  # Ctrl-C, just before it began
                    run.broken_off(error)
                raise
        if isinstance(answer, State):
            return ledger.parked(execution, answer, run.key.text) if answer.is_paused() else answer
        if isinstance(answer, Held):
            if not ledger.waits_in_place:
                logger.info("Run %s of %s waits: its key is held", execution.run.name, execution.spec.name)
                return ledger.not_now(execution, _BACK_SECONDS)
            _tell_once(execution, answer, run)
            change = key_watch.change_of(ledger.its_backend(), run.key, answer.entry)
            yield Wait([change])
            seen = change.state.data
        elif isinstance(answer, NotYet):
            if not ledger.waits_in_place:
                return ledger.not_now(execution, answer.seconds)
            yield Sleep(answer.seconds)
        ledger.check_stopped()


def _tell_once(execution: TaskExecution, held: Held, run: KeyedRun) -> None:
    """Say whom a run waits for, if that is a process of which this machine cannot see whether it lives."""
    holder = held.entry.record.holder
    if holder is not None and not run.told and deaths.is_elsewhere(holder):
        run.told = True
        logger.warning(
            "Run %s of %s waits for a run on %s, which holds its key. If that machine is gone for good: "
            "kapstan task-run resolve %s --ended",
            execution.run.name, execution.spec.name, holder.host, run.key.text,
        )  # fmt: skip


def _executed(execution: TaskExecution, proceed: Next, run: KeyedRun) -> Steps[object]:
    """The state of the run, its end written; None if the intent was lost, and is to be looked at again."""
    instead = execution.ledger.instead
    if instead is not None:
        yield from _asked(execution, lambda: run.release(instead), forever=True)
        return instead
    execution.run.key = run  # and stays so: what the code has started may ask, later, and is fenced then
    before, mark = _around.get(), None
    try:
        mark = _around.set(before | {run.key})
        run.enter()
        state = yield from proceed(execution)
        if state.is_completed():
            instead = yield from _asked(execution, lambda: run.commit(state), forever=True)
            if instead is None:
                run.committed()
            return state if instead is None else instead
        if retries.is_in_doubt(execution.spec, state):
            return (
                yield from _asked(execution, lambda: run.park("its time limit ended it while it ran"), forever=True)
            )
        failed = state if state.is_final() else None
        yield from _asked(execution, lambda: run.release(failed), forever=True)
        return state
    except BaseException as error:
        if isinstance(error, Fenced) and run.lost:
            return None
        run.broken_off(error)
        raise
    finally:
        if mark is not None:
            _around.reset(mark)
        elif _around.get() != before:  # Ctrl-C came between
            _around.set(before)


def _asked(execution: TaskExecution, ask: Callable[[], Any], *, forever: bool) -> Steps[Any]:
    """What ``ask`` answers, once the store does.

    Args:
        forever: whether a store that is away is waited for.
    """
    pause = _FIRST_PAUSE
    while True:
        try:
            return (yield Do(ask))
        except StoreUnsafe:
            raise
        except BackendError as error:
            if not forever:
                raise
            logger.warning("Run %s of %s waits for the store: %s", execution.run.name, execution.spec.name, error)
        yield Sleep(pause)
        execution.ledger.check_stopped()
        pause = min(2 * pause, _LONGEST_PAUSE)
