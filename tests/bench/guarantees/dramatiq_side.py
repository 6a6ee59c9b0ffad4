"""Dramatiq's side. It acknowledges late as it is; careful: the mutex of its manual, too."""

from __future__ import annotations

import os
from typing import Any

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.rate_limits import ConcurrentRateLimiter
from dramatiq.rate_limits.backends import RedisBackend as LimiterBackend
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from tests.bench.guarantees.effects import effect

url, careful = os.environ.get("BENCH_REDIS_URL", "redis://"), os.environ.get("BENCH_CAREFUL") == "1"
broker = RedisBroker(url=url)
broker.add_middleware(Results(backend=RedisBackend(client=redis.Redis.from_url(url, socket_timeout=None))))
dramatiq.set_broker(broker)
limits = LimiterBackend(client=redis.Redis.from_url(url))


def _alone(task: str, user: str, amount: int) -> str:
    """The manual's mutex: who finds it taken is tried again later."""
    with ConcurrentRateLimiter(limits, f"mutex:{task}:{user}:{amount}", limit=1).acquire():
        return effect(task, user, amount)


@dramatiq.actor(store_results=True, min_backoff=1000)
def charge(user: str, amount: int) -> str:
    return _alone("charge", user, amount) if careful else effect("charge", user, amount)


@dramatiq.actor(store_results=True, min_backoff=1000)
def refund(user: str, amount: int) -> str:
    return _alone("refund", user, amount) if careful else effect("refund", user, amount)


@dramatiq.actor(store_results=True)
def work(user: str, amount: int) -> str:
    return effect("work", user, amount)


@dramatiq.actor
def noop() -> None:
    pass


def send(task: str, *arguments: Any) -> Any:
    return globals()[task].send(*arguments)


def answer(sent: Any, seconds: float) -> Any:
    return sent.get_result(block=True, timeout=int(seconds * 1000))
