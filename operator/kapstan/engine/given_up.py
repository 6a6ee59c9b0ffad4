"""Background runs that are given up, and may have begun: cancelled, or their process died too often.

Of class at_most_once nobody may say that such a run was cancelled, or crashed, before its register was looked at: its
effect may be done, or in doubt. So it walks its chain as any claim does, and ends where its code would begin.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from kapstan import states
from kapstan.backend import Backend
from kapstan.context import TaskRun
from kapstan.engine import values
from kapstan.errors import BackendError, CancelledRun, CancelRun, CrashedRun
from kapstan.ports import Claim, Outcome
from kapstan.specs import TaskSpec
from kapstan.states import EffectClass, State

logger = logging.getLogger("kapstan.task_runs")
_Later = TypeVar("_Later")
_PAUSE_SECONDS = 0.05


def instead(claim: Claim, max_crashes: int) -> State | None:
    """How the run of ``claim`` ends in the place of an execution; None: it may execute."""
    if claim.cancelled:
        return states.Cancelled(data=CancelledRun("it was cancelled"))
    if claim.crashes < max_crashes:
        return None
    died = f"its process died {values.times(claim.crashes)} (KAPSTAN_MAX_CRASHES)"
    return states.Crashed(message=died, data=CrashedRun(died))


def has_register(claim: Claim, spec: TaskSpec) -> bool:
    """Whether a register must be asked what became of the run of ``claim``."""
    return claim.effect is EffectClass.AT_MOST_ONCE and spec.effect is not EffectClass.PURE


def unserved(task: str, specs: Mapping[str, TaskSpec]) -> str:
    """Why a run that this worker was given is not executed."""
    return f"this worker does not serve the task {task!r}; it serves {', '.join(sorted(specs)) or 'none'}"


def outcome(backend: Backend, claim: Claim, end: State) -> Outcome:
    """What the queue is told of a run that ended with ``instead``."""
    if end.is_cancelled():
        return Outcome(claim.run_id, claim.token, "cancelled", b"")
    logger.error("Task run %s of %s is given up: %s", claim.run_id, claim.task, end.message)
    return Outcome(claim.run_id, claim.token, "crashed", values.seal_reason(backend, end.message, claim.run_id))


def doubt(claim: Claim) -> str:
    """What a person must know of a run that cannot even be looked at: "" where nothing can have happened."""
    begun = claim.cancelled or claim.crashes or claim.token.epoch > 1 or (claim.stored and claim.stored.begun)
    if claim.effect is not EffectClass.AT_MOST_ONCE or not begun:
        return ""
    return "; whether its effect happened is in doubt: the next call of its key finds out or is parked"


def cancelled(claim: Claim, spec: TaskSpec, task_run: TaskRun, run: Callable[[Claim], Outcome | _Later]) -> Outcome:
    """How a run ended that a cancel has interrupted. If its code had begun and must not run twice: as soon as its
    register says so, however long the store is away. If the process is ended meanwhile, another one looks.

    Args:
        run: executes a claim.
    """
    if spec.effect is not EffectClass.AT_MOST_ONCE or task_run.key is None:
        return Outcome(claim.run_id, claim.token, "cancelled", b"")
    claim = claim._replace(cancelled=True)
    while True:
        try:
            ended = run(claim)
        except (BackendError, CancelRun):
            ended = None
        if isinstance(ended, Outcome):
            return ended
        time.sleep(_PAUSE_SECONDS)
