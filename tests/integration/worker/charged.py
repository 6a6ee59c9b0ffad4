"""Tasks with effects, for workers. An effect is a line in a file outside of everything, on the disk at once."""

from __future__ import annotations

import logging
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.integration.keyed.charging import ByInputs, effect
from tests.integration.worker.served import tell

from kapstan import task
from kapstan.engine import chain
from kapstan.states import EffectClass


def dies_behind_the_commit(execution: Any, proceed: Any) -> Any:
    """A step outside of all others: the process is killed when the run is committed and the queue does not know it."""
    state = yield from proceed(execution)
    trap = Path(os.environ["EFFECTS"]) / "trap"
    if state.is_completed() and trap.exists():
        trap.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return state


chain.STEPS = (chain.Link(dies_behind_the_commit, lambda spec: spec.name.startswith("charged-trapped")), *chain.STEPS)


def charge(order: str, gate: str = "") -> str:
    effect(os.environ["EFFECTS"], order)
    logging.getLogger("shop").warning("charging %s\nand more", order)
    tell("began", order, os.getpid())
    if gate:
        with open(gate, "rb", buffering=0) as pipe:
            pipe.read(1)
    return f"charged {order}"


def in_class(name: str, effect: EffectClass, **options: Any) -> Any:
    made = task(charge, name=name, effect=effect, **options)
    made.spec = replace(made.spec, cache_policy=ByInputs())
    return made


once = in_class("charged-once", EffectClass.AT_MOST_ONCE, effect_horizon=0.0)
patient = in_class("charged-patient", EffectClass.AT_MOST_ONCE, effect_horizon=3600.0)
again = in_class("charged-again", EffectClass.IDEMPOTENT)
trapped = in_class("charged-trapped", EffectClass.AT_MOST_ONCE)
refreshed = in_class("charged-trapped-refreshed", EffectClass.AT_MOST_ONCE)
refreshed.spec = replace(refreshed.spec, refresh_cache=True)


def refuse(order: str) -> None:
    effect(os.environ["EFFECTS"], order)
    tell("began", order, os.getpid())
    raise ValueError(f"refused {order}")


refused = task(refuse, name="charged-refused", effect="at_most_once")
refused_alike = task(refuse, name="charged-refused-alike", effect="idempotent")
refused_alike.spec = replace(refused_alike.spec, cache_policy=ByInputs())


@task(name="charged-failing", effect="at_most_once", retries=2, retry_delay_seconds=0.05)
def failing(order: str) -> str:
    if effect(os.environ["EFFECTS"], order) < 2:
        raise ValueError(order)
    return order
