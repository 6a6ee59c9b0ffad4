"""Dramatiq's side of the bench: imported by its worker process and by the bench, which enqueues."""

from __future__ import annotations

import os
import time

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

url = os.environ["BENCH_REDIS_URL"]
broker = RedisBroker(url=url)
broker.add_middleware(Results(backend=RedisBackend(client=redis.Redis.from_url(url, socket_timeout=None))))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def noop(mark: bool = False) -> float | None:
    return time.monotonic() if mark else None
