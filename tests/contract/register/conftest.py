"""The register over every adapter of the store, each on the real thing, each test in a namespace of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.servers.minio import Minio, minio, new_namespace, own_minio

from kapstan.backend import Backend
from kapstan.settings import Settings

__all__ = ["minio", "own_minio"]


@pytest.fixture(params=["s3", "local"])
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of a namespace of the test's own."""
    home, namespace = str(tmp_path / "home"), new_namespace()
    if request.param == "local":
        return Settings(home=home, namespace=namespace)
    server: Minio = request.getfixturevalue("minio")
    return server.settings(home=home, namespace=namespace)


@pytest.fixture
def backend(setting: Settings) -> Iterator[Backend]:
    made = Backend(setting)
    yield made
    made.close()
