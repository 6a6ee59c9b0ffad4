"""Retention over every adapter of the store, each on the real thing; the clock is moved by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.retention.makers import Shop
from tests.servers.minio import Minio, minio, new_namespace, own_minio

from kapstan.backend import Backend
from kapstan.settings import Settings

__all__ = ["minio", "own_minio"]


@pytest.fixture(params=["s3", "local"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "local":
        return Settings(home=str(tmp_path / "home"))
    server: Minio = request.getfixturevalue("minio")
    return server.settings(namespace=new_namespace(), home=str(tmp_path / "home"))


@pytest.fixture
def shop(settings: Settings) -> Iterator[Shop]:
    backend = Backend(settings)
    yield Shop(backend)
    backend.close()
