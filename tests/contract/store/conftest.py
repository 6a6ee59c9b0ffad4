"""Every adapter of the store ports, each on the real thing, each test in a namespace of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.servers.minio import Minio, minio, new_namespace, own_minio

from kapstan.ports import Store
from kapstan.store.local import LocalStore
from kapstan.store.s3 import S3Store

__all__ = ["minio", "own_minio"]


@pytest.fixture
def namespace() -> str:
    return new_namespace()


@pytest.fixture
def s3(minio: Minio, namespace: str) -> Iterator[S3Store]:
    store = S3Store.from_settings(minio.settings(namespace=namespace))
    yield store
    store.close()


@pytest.fixture(params=["s3", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return request.getfixturevalue("s3")
    return LocalStore(tmp_path / "store")
