"""A large value goes to a slow store while the event loop goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from tests.servers.fault_proxy import FaultProxy
from tests.servers.minio import ACCESS_KEY, BUCKET, SECRET_KEY, Minio

from kapstan import backend, flow, task
from kapstan.engine import flow_engine
from kapstan.ids import new_id
from kapstan.journal import TaskOutcome, read_journal
from kapstan.settings import Settings

SIZE = 50_000_000
TURNS = 1000


class SlowValues(FaultProxy):
    """Takes the bytes of a value and does not hand them on before it is told to."""

    def __init__(self, upstream: str) -> None:
        self.taken, self.hand_on = threading.Event(), threading.Event()
        self.let_go = True
        super().__init__(upstream, {})

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        if handler.command == "PUT" and "/values/" in handler.path:
            self.taken.set()
            self.let_go = self.hand_on.wait(10.0) and self.let_go
        super()._handle(handler)


@pytest.fixture
def store(minio: Minio, tmp_path: Path) -> Iterator[SlowValues]:
    with SlowValues(minio.url).running() as proxy:
        assert isinstance(proxy, SlowValues)
        backend.use(
            Settings(
                home=str(tmp_path),
                namespace=f"t{new_id()[-8:].strip('-_').lower()}",
                s3_endpoint=proxy.url,
                s3_bucket=BUCKET,
                s3_access_key=ACCESS_KEY,
                s3_secret_key=SECRET_KEY,
            )
        )
        yield proxy
        backend.use(None)


class Large(Exception):
    pass


@task(name="large-values-result")
async def large_result() -> bytes:
    return bytes(SIZE)


@task(name="large-values-failure")
async def large_failure() -> None:
    raise Large(bytes(SIZE))


@task(name="large-values-submitted")
async def large_submitted() -> bytes:
    return bytes(SIZE)


async def by_result() -> int:
    return len(await large_result())


async def by_failure() -> int:
    try:
        await large_failure()
    except Large as error:
        return len(error.args[0])
    return 0


async def by_submit() -> int:
    return len(await large_submitted.submit().result_async())


async def turned(store: SlowValues) -> None:
    """Let the loop turn, and let the store go on when it has while the value was on its way."""
    while not store.taken.is_set():  # noqa: ASYNC110  (its turns are what is tested)
        await asyncio.sleep(0)
    for _ in range(TURNS):
        await asyncio.sleep(0)
    store.hand_on.set()


@pytest.mark.parametrize("way", [by_result, by_failure, by_submit])
def test_the_loop_turns_while_the_store_takes_it(store: SlowValues, way: Any) -> None:
    @flow
    async def large_values() -> int:
        turning = asyncio.create_task(turned(store))
        size = await way()
        await turning
        return size

    run_id = new_id()
    state = asyncio.run(flow_engine.arun(flow_engine.make_run(large_values.spec, run_id, {})))
    assert state.result() == SIZE
    assert store.let_go, f"the loop did not turn {TURNS} times before the store gave up"
    history = read_journal(backend.current().store, backend.current().codec, run_id)
    (kept,) = history.outcomes.values()
    assert isinstance(kept, TaskOutcome)
    assert kept.value is not None
    assert len(kept.value) < 2000, "the value is in the store, and a reference in the journal"


def test_an_outcome_that_nobody_waits_for_any_more_is_stored_before_the_run_ends(store: SlowValues) -> None:
    @flow
    async def large_abandoned() -> None:
        call = asyncio.ensure_future(large_result())
        while not store.taken.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0)
        call.cancel()
        store.hand_on.set()

    run_id = new_id()
    asyncio.run(flow_engine.arun(flow_engine.make_run(large_abandoned.spec, run_id, {})))
    history = read_journal(backend.current().store, backend.current().codec, run_id)
    assert [outcome.state for outcome in history.outcomes.values()] == ["COMPLETED"]
