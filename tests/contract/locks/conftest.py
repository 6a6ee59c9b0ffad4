"""Every lock manager, each on its own place; the services are real and shared by the tests of this folder."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.contract.locks import line
from tests.contract.locks.program import Program
from tests.servers.postgres import postgres as postgres
from tests.servers.redis import RedisServer

from kapstan import backend
from kapstan.locking import (
    FileSystemLockManager,
    LockManager,
    MemoryLockManager,
    PostgresLockManager,
    RedisLockManager,
)

BETWEEN_PROCESSES = ("files", "redis", "postgres")
_keys = itertools.count(1)


@pytest.fixture(scope="session")
def redis_of_locks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("locks"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own."""
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    backend.use(None)
    server.stop()


@pytest.fixture
def place(request: pytest.FixtureRequest) -> str:
    return request.param


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames or "manager" in metafunc.fixturenames:
        alone = metafunc.definition.get_closest_marker("usefixtures")
        apart = "start" in metafunc.fixturenames or (alone is not None and "between_processes" in alone.args)
        metafunc.parametrize("place", BETWEEN_PROCESSES if apart else ("memory", *BETWEEN_PROCESSES), indirect=True)


@pytest.fixture
def between_processes() -> None:
    """Not for locks of one process."""


@pytest.fixture
def lease(monkeypatch: pytest.MonkeyPatch) -> float:
    """A short one, also for processes that a test starts."""
    monkeypatch.setenv("KAPSTAN_LEASE_SECONDS", "2")
    monkeypatch.setenv("KAPSTAN_BEAT_SECONDS", "0.5")
    return 2.0


@pytest.fixture
def manager(place: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LockManager]:
    made: LockManager
    if place == "memory":
        made = MemoryLockManager()
    elif place == "files":
        made = FileSystemLockManager(tmp_path / "locks")
    elif place == "redis":
        made = RedisLockManager(host="127.0.0.1", port=request.getfixturevalue("redis_of_locks").port)
    else:
        made = PostgresLockManager(request.getfixturevalue("postgres").dsn)
    yield made
    backend.use(None)


@pytest.fixture
def key() -> str:
    return f"key-{next(_keys)}"


@pytest.fixture
def start(manager: LockManager) -> Iterator[Callable[[], Program]]:
    started: list[Program] = []

    def starting() -> Program:
        started.append(Program(manager))
        return started[-1]

    yield starting
    for each in started:
        each.close()


@pytest.fixture
def await_waiting(manager: LockManager) -> Callable[[str, int], None]:
    """See ``line``."""
    return partial(line.await_waiting, manager)
