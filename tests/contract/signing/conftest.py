"""Whoever can write to Redis and to the store, but has no signing key: what they try, against both stores and a real
Redis."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.servers.minio import Minio, minio, own_minio
from tests.servers.redis import RedisServer

from kapstan import backend
from kapstan.backend import Backend
from kapstan.ids import new_nonce
from kapstan.settings import Settings

__all__ = ["minio", "own_minio"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["s3", "local"])
def given(request: pytest.FixtureRequest, server: RedisServer, tmp_path: Path) -> Settings:
    """Settings of a namespace of the test's own."""
    fields = {"home": str(tmp_path / "home"), "namespace": f"sign{os.getpid()}-{new_nonce()}x", "redis_url": server.url}
    if request.param == "local":
        return Settings(**fields)
    store: Minio = request.getfixturevalue("minio")
    return store.settings(**fields)


@pytest.fixture
def used(given: Settings) -> Iterator[Backend]:
    """The backend of this process, for tasks that are submitted."""
    backend.use(given)
    yield backend.current()
    backend.use(None)
