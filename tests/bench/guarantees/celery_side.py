"""Celery's side. Careful: what its manual offers for tasks that must not be lost or overlap.

That is late acknowledgement, and the lock of its cookbook ("ensuring a task is only executed one at a time").
"""

from __future__ import annotations

import os
from typing import Any

import celery
import redis
from tests.bench.guarantees.effects import effect

url, careful = os.environ.get("BENCH_REDIS_URL", ""), os.environ.get("BENCH_CAREFUL") == "1"
app = celery.Celery("bench", broker=url, backend=url)
app.conf.broker_connection_retry_on_startup = True
if careful:
    app.conf.task_acks_late = app.conf.task_reject_on_worker_lost = True
    app.conf.worker_prefetch_multiplier = 1
    app.conf.broker_transport_options = {"visibility_timeout": 10}


def _alone(task: str, user: str, amount: int) -> str:
    """The cookbook: who finds the lock taken does nothing."""
    with redis.Redis.from_url(url) as client:
        name = f"lock:{task}:{user}:{amount}"
        if not client.set(name, "1", nx=True, ex=600):
            return "skipped"
        try:
            return effect(task, user, amount)
        finally:
            client.delete(name)


@app.task
def charge(user: str, amount: int) -> str:
    return _alone("charge", user, amount) if careful else effect("charge", user, amount)


@app.task
def refund(user: str, amount: int) -> str:
    return _alone("refund", user, amount) if careful else effect("refund", user, amount)


@app.task
def work(user: str, amount: int) -> str:
    return effect("work", user, amount)


@app.task
def noop() -> None:
    pass


def send(task: str, *arguments: Any) -> Any:
    return globals()[task].delay(*arguments)


def answer(sent: Any, seconds: float) -> Any:
    return sent.get(timeout=seconds)
