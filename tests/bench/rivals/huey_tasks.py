"""Huey's side of the bench: imported by its consumer and by the bench, which enqueues. Results wake who waits."""

from __future__ import annotations

import os
import time

from huey import RedisHuey

huey = RedisHuey("bench", url=os.environ["BENCH_REDIS_URL"], notify_result=True)


@huey.task()
def noop() -> float:
    return time.monotonic()
