"""Kapstan's side: the payment as the durability page prints it; careful: ``exactly_once=True``, no lock manager."""

from __future__ import annotations

import os
from typing import Any

from tests.bench.guarantees.effects import effect

from kapstan import task
from kapstan.cache_policies import INPUTS
from kapstan.locking import RedisLockManager

careful = os.environ.get("BENCH_CAREFUL") == "1"
once: dict[str, Any] = (
    {"cache_policy": INPUTS, "exactly_once": True}
    if careful
    else {"cache_policy": INPUTS.configure(lock_manager=RedisLockManager())}
)


@task(**once)
def charge(user: str, amount: int) -> str:
    return effect("charge", user, amount)


@task(**once)
def refund(user: str, amount: int) -> str:
    return effect("refund", user, amount)


@task
def work(user: str, amount: int) -> str:
    return effect("work", user, amount)


@task
def noop() -> None:
    pass


def send(task: str, *arguments: Any) -> Any:
    return globals()[task].delay(*arguments)


def answer(sent: Any, seconds: float) -> Any:
    return sent.result(timeout=seconds)
