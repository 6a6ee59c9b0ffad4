"""A backend on a real Redis and files of a test's own, which the command line of this process uses too."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.servers.redis import RedisServer

from kapstan import backend as backends
from kapstan.backend import Backend
from kapstan.cli import cli
from kapstan.errors import KapstanError
from kapstan.settings import Settings

_namespaces = itertools.count(1)


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def backend(shared_server: RedisServer, tmp_path: Path) -> Iterator[Backend]:
    settings = Settings(
        home=str(tmp_path / "home"),
        namespace=f"runs{os.getpid()}-{next(_namespaces)}",
        redis_url=shared_server.url,
        redis_retry_seconds=5.0,
    )
    backends.use(settings)
    yield backends.current()
    backends.use(None)


@pytest.fixture
def kapstan(backend: Backend) -> Callable[..., Result]:
    """Runs a command; an error of ours is its only line of output, as ``main`` prints it."""

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(cli, arguments)
        if isinstance(result.exception, KapstanError):
            result.stderr_bytes = f"Error: {result.exception}\n".encode()
        elif result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run
