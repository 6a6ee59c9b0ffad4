"""Whether a failed execution runs again, and when: one answer for tasks in flows and in the background."""

from __future__ import annotations

import inspect
import logging
import random
from typing import Protocol

from kapstan import states
from kapstan.context import current_task
from kapstan.engine.control_flow import ends_the_caller
from kapstan.engine.functions import driven
from kapstan.specs import TaskSpec
from kapstan.states import EffectClass, State

logger = logging.getLogger("kapstan.task_runs")


class Chance(Protocol):
    """The part of ``random.Random`` that jitter uses."""

    def random(self) -> float: ...


def retry_delay(spec: TaskSpec, run_count: int, error: BaseException, chance: Chance = random) -> float | None:  # pyright: ignore
    """Seconds until execution ``run_count + 1`` may start, None if there is none.

    An error in the task's own ``retry_condition_fn`` is logged and means no retry. Jitter adds up to
    ``retry_jitter_factor`` times the delay.
    """
    if run_count > spec.retries or not isinstance(error, Exception):
        return None
    if spec.retry_condition_fn is not None and not _granted(spec, error):
        return None
    delay = spec.delay_before(run_count)
    return delay + delay * spec.retry_jitter_factor * chance.random() if spec.retry_jitter_factor else delay


def is_in_doubt(spec: TaskSpec, state: State) -> bool:
    """Whether the time limit ended code that must not run twice: nobody knows whether it had its effect."""
    return spec.effect is EffectClass.AT_MOST_ONCE and state.is_failed() and state.name == "TimedOut"


def _granted(spec: TaskSpec, error: Exception) -> bool:
    """What the task's condition says of ``error``."""
    condition = spec.retry_condition_fn
    assert condition is not None
    state = states.Failed(message=f"Task run encountered an exception: {type(error).__name__}: {error}", data=error)
    try:
        answer = condition(spec.task, current_task.get(), state)
        return bool(driven(answer) if inspect.iscoroutine(answer) else answer)
    except BaseException as raised:
        if ends_the_caller(raised):
            raise
        logger.exception("The retry_condition_fn of task %s raised: no retry", spec.name)
        return False
