"""Whether a failed execution runs again, and when: one answer for tasks in flows and in the background."""

from __future__ import annotations

import random
from typing import Protocol

from kapstan.specs import TaskSpec


class Chance(Protocol):
    """The part of ``random.Random`` that jitter uses."""

    def random(self) -> float: ...


def retry_delay(spec: TaskSpec, run_count: int, error: BaseException, chance: Chance = random) -> float | None:  # pyright: ignore
    """Seconds until execution ``run_count + 1`` may start, None if there is none.

    An error in the task's own ``retry_condition_fn`` means no retry. Jitter adds up to ``retry_jitter_factor``
    times the delay.
    """
    if run_count > spec.retries or not isinstance(error, Exception):
        return None
    if spec.retry_condition is not None:
        try:
            if not spec.retry_condition(error):
                return None
        except Exception:  # noqa: BLE001  (the user's condition; Prefect's rule)
            return None
    delay = spec.delay_before(run_count)
    return delay + delay * spec.retry_jitter_factor * chance.random() if spec.retry_jitter_factor else delay
