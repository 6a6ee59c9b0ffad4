"""Redis is away for longer than a call may wait, while a flow waits for a background run."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers.redis import RedisServer

from kapstan import Future, as_completed, backend, flow, task
from kapstan.errors import QueueUnavailable
from kapstan.settings import Settings


@task(name="queue-away-child")
def child() -> None: ...


@task(name="queue-away-behind")
def behind(_: Any) -> None: ...


class Waits(logging.Handler):
    """``seen`` is set when somebody says that the queue is away."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "; waiting: " in text or "trying again: " in text:
            self.seen.set()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    server.start()
    backend.use(Settings(home=str(tmp_path / "home"), redis_url=server.url, redis_retry_seconds=0.2))
    yield server
    backend.use(None)
    server.kill()


@pytest.fixture
def waits() -> Iterator[Waits]:
    handler, logger = Waits(), logging.getLogger("kapstan")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def by_result(run: Future[Any]) -> str:
    return run.result(raise_on_failure=False).__class__.__name__


def by_as_completed(run: Future[Any]) -> str:
    return next(iter(as_completed([run]))).state.name


def by_loop(run: Future[Any]) -> str:
    async def wait() -> str:
        return (await run.result_async(raise_on_failure=False)).__class__.__name__

    return asyncio.run(wait())


def by_submitted(run: Future[Any]) -> str:
    after = behind.submit(run)
    after.wait()
    return after.state.name


@pytest.mark.parametrize(
    ("way", "seen"),
    [
        (by_result, "CancelledRun"),
        (by_as_completed, "Cancelled"),
        (by_loop, "CancelledRun"),
        (by_submitted, "NotReady"),
    ],
)
def test_a_flow_waits_until_it_is_back(
    redis: RedisServer, waits: Waits, way: Callable[[Future[Any]], str], seen: str
) -> None:
    def come_back(run_id: str) -> None:
        redis.kill()
        assert waits.seen.wait(30), "the outage has bitten"
        redis.start()
        backend.current().queue.cancel(run_id)

    @flow(name=f"queue-away-{way.__name__}")
    def waiting() -> str:
        run = child.delay()
        other = threading.Thread(target=come_back, args=(run.memo_reference,))
        other.start()
        try:
            return way(run)
        finally:
            other.join()

    assert waiting() == seen


def test_its_patience_ends_with_its_time_limits(redis: RedisServer, waits: Waits) -> None:
    @flow(name="queue-away-for-ever")
    def waiting() -> None:
        run = child.delay()
        redis.kill()
        run.wait(timeout=0.5)
        with pytest.raises(TimeoutError):
            run.result(timeout=0.5)
        assert waits.seen.is_set()
        run.result()

    state = waiting.with_options(timeout_seconds=4)(return_state=True)
    assert state.name == "TimedOut", state
    redis.start()


def test_outside_of_a_flow_it_is_told_at_once(redis: RedisServer) -> None:
    run = child.delay()
    redis.kill()
    with pytest.raises(QueueUnavailable):
        run.result()
    redis.start()
