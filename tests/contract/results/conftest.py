"""Every place where results can be: the store of the namespace and named storages, local and S3, and a block."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.servers.minio import Minio, minio, new_namespace, own_minio

from kapstan import backend as backends
from kapstan.backend import Backend
from kapstan.ids import new_nonce
from kapstan.settings import Settings

__all__ = ["minio", "own_minio"]


class Folder:
    """A block-like object that keeps each path in a file of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def read_path(self, path: str) -> bytes:
        return self._file(path).read_bytes()

    async def write_path(self, path: str, content: bytes) -> None:
        self._file(path).parent.mkdir(parents=True, exist_ok=True)
        self._file(path).write_bytes(content)

    def _file(self, path: str) -> Path:
        return Path(self.folder, path.replace("/", "__"))


class Place(NamedTuple):
    """A result storage as it is named, and the settings of who uses it."""

    storage: Any
    settings: Settings

    @property
    def backend(self) -> Backend:
        return backends.current()


PLACES = ["store", "folder", "s3 store", "s3 storage"]


@pytest.fixture(params=[*PLACES, "block"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    home = str(tmp_path / "home")
    settings = Settings(home=home, max_value_bytes=1 << 30)
    storage: Any = None
    if request.param.startswith("s3"):
        server: Minio = request.getfixturevalue("minio")
        settings = server.settings(home=home, namespace=new_namespace(), max_value_bytes=1 << 30)
        storage = None if request.param == "s3 store" else f"s3://{settings.s3_bucket}/named/{new_nonce()}"
    elif request.param == "folder":
        storage = tmp_path / "named"
    elif request.param == "block":
        storage = Folder(tmp_path / "block")
    backends.use(settings)
    yield Place(storage, settings)
    backends.use(None)
