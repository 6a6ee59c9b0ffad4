"""The operator as the chart installs it, against the API server of the contracts, a Redis and a MinIO."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.apiserver import ApiServer
from tests.contract.kubernetes.operators import Install, installer
from tests.servers.minio import Minio
from tests.servers.minio import minio as minio
from tests.servers.redis import RedisServer


@pytest.fixture(scope="session")
def operators_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("operators-redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def install(api_server: ApiServer, operators_redis: RedisServer, minio: Minio, tmp_path: Path) -> Iterator[Install]:
    yield from installer(api_server, operators_redis, minio, tmp_path)
