"""Keyed: a run whose key is known to be done is not executed; one with an effect says so before its effect, durably.

``pure``: the result that is there and fresh is the run's (state ``Cached``); else it is executed and the result kept,
unless another run was faster. Other classes: the intent is written first, and what becomes of it after; whoever finds
the intent of another run waits, takes over or parks, as the class says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from kapstan.engine import cache_key, key_watch, retries, returns
from kapstan.engine.execution import Next, TaskExecution
from kapstan.engine.keyed import BEGUN, Held, KeyedRun, NotYet
from kapstan.engine.operations import Do, Sleep, Steps, Wait
from kapstan.errors import BackendError, Fenced, KapstanError, StoreUnsafe
from kapstan.ports import Entry, RegisterKey
from kapstan.runs import deaths
from kapstan.states import EffectClass, State

logger = logging.getLogger("kapstan.task_runs")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_BACK_SECONDS = 0.1
"""For how long a background run goes back to the queue while another one holds its key."""


def keyed(execution: TaskExecution, proceed: Next) -> Steps[State]:
    spec = execution.spec
    try:
        key = yield Do(cache_key.key_of, execution)
        if key is None:
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
    return (yield from _once(execution, proceed, run))


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
    state = yield from proceed(execution)
    if not state.is_completed():
        return state
    try:
        return (yield Do(run.publish, state))
    except KapstanError as error:
        logger.warning("The result of %s is not cached: %s", execution.spec.name, error)
        return state


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
            answer = yield from _executed(execution, proceed, run)
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
    context = execution.run
    context.key, before = run, context.key
    try:
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
        context.key = before


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
