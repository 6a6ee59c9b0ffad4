"""A Redis of a test's own, which it empties, and each adapter of the store, on the real thing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.durability.makers import Shop
from tests.servers.minio import Minio, minio, new_namespace, own_minio
from tests.servers.redis import RedisServer

from kapstan import backend as backends
from kapstan.settings import Settings

__all__ = ["minio", "own_minio"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["local", "s3"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, server: RedisServer) -> Settings:
    given = {"home": str(tmp_path / "home"), "redis_url": server.url, "redis_retry_seconds": 10.0}
    if request.param == "local":
        (tmp_path / "home").mkdir()
        return Settings(**given)  # type: ignore[arg-type]
    server_of_objects: Minio = request.getfixturevalue("minio")
    return server_of_objects.settings(namespace=new_namespace(), **given)


@pytest.fixture
def shop(settings: Settings, server: RedisServer) -> Iterator[Shop]:
    backends.use(settings)
    shop = Shop(settings, server)
    yield shop
    shop.close()
    backends.use(None)
