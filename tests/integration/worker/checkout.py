"""Background runs whose code calls tasks with effects, for workers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.integration.keyed.charging import effect

from kapstan import task
from kapstan.states import EffectClass


def trapped(name: str) -> bool:
    """Whether the test has set a trap of this name, which is gone afterwards."""
    trap = Path(os.environ["EFFECTS"]) / name
    if not trap.exists():
        return False
    trap.unlink()
    return True


def pay(order: str) -> str:
    effect(os.environ["EFFECTS"], order)
    return f"paid {order}"


once = task(pay, name="pay-once", effect=EffectClass.AT_MOST_ONCE)
again = task(pay, name="pay-again", effect=EffectClass.IDEMPOTENT)


@task(name="pay-in-step", retries=1)
def step(order: str) -> str:
    paid = once(order)
    if trapped("step"):
        raise ValueError("after the payment")
    return paid


@task(name="checkout", retries=1)
def checkout(order: str) -> list[str]:
    """Pays four times for an order: two equal calls are two payments."""
    paid = [once(order), once(order), again(order), step(order)]
    if trapped("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if trapped("raise"):
        raise ValueError("after all payments")
    return paid
