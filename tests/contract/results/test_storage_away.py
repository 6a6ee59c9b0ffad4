"""A storage that is away or refuses is an error of its own: never a "no", never a lost or half-written result."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.servers.minio import Minio

from kapstan import backend as backends
from kapstan import settings
from kapstan.errors import BackendError, ConfigurationError, StoreRefused, StoreUnavailable
from kapstan.result_store import ResultStore
from kapstan.settings import Settings

LARGE = os.urandom(20_000_000)
CALLS: dict[str, Callable[[ResultStore], Any]] = {
    "read": lambda store: store.read("x"),
    "exists": lambda store: store.exists("x"),
    "write": lambda store: store.write(2, "x"),
    "write much": lambda store: store.write(LARGE, "x"),
    "aexists": lambda store: asyncio.run(store.aexists("x")),
}


@pytest.fixture(autouse=True)
def of_this_test() -> Iterator[None]:
    backends.use(None)
    yield
    backends.use(None)


@pytest.fixture
def away(own_minio: Minio, tmp_path: Path) -> Minio:
    backends.use(own_minio.settings(home=str(tmp_path / "home")))
    return own_minio


@pytest.mark.parametrize("storage", [None, "s3://kapstan/elsewhere"])
def test_a_store_that_is_away_is_unavailable(away: Minio, storage: str | None) -> None:
    store = ResultStore(result_storage=storage)
    store.write(1, "x")
    away.kill()
    patient = settings.current()
    backends.use(replace(patient, store_deadline_seconds=0.5))
    for call in CALLS.values():
        with pytest.raises(StoreUnavailable, match="gave no answer to"):
            call(store)
    away.start()
    backends.use(patient)
    assert store.read("x").result == 1


@pytest.mark.parametrize("call", CALLS)
def test_a_bucket_that_is_not_there_is_refused(away: Minio, call: str) -> None:
    with pytest.raises(StoreRefused, match="NoSuchBucket"):
        CALLS[call](ResultStore(result_storage="s3://no-such-bucket/x"))


@pytest.mark.parametrize("call", ["write", "write much"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, call: str) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreRefused, match=r"cannot use .*KAPSTAN_HOME, or a result storage, must be a folder"):
        CALLS[call](ResultStore(result_storage=tmp_path / "file" / "below"))


@pytest.mark.parametrize("value", [1, LARGE], ids=["small", "large"])
def test_a_write_that_is_refused_leaves_what_was_there(tmp_path: Path, value: Any) -> None:
    store = ResultStore(result_storage=tmp_path / "results")
    store.write("before", "x")
    aside = tmp_path / "results" / ".kapstan" / "aside"
    aside.rmdir()
    aside.touch()
    with pytest.raises(StoreRefused):
        store.write(value, "x")
    aside.unlink()
    aside.mkdir()
    assert store.read("x").result == "before"
    assert list(aside.iterdir()) == []


def test_a_folder_that_is_only_read_needs_no_rights_and_is_not_made(tmp_path: Path) -> None:
    assert not ResultStore(result_storage=tmp_path / "nowhere").exists("x")
    assert not (tmp_path / "nowhere").exists()
    ResultStore(result_storage=tmp_path / "results").write(1, "x")
    shutil.rmtree(tmp_path / "results" / ".kapstan")
    backends.use(None)
    assert ResultStore(result_storage=tmp_path / "results").read("x").result == 1
    assert not (tmp_path / "results" / ".kapstan").exists()


def test_s3_needs_an_endpoint(tmp_path: Path) -> None:
    backends.use(Settings(home=str(tmp_path)))
    with pytest.raises(ConfigurationError, match="'s3://bucket/x' needs KAPSTAN_S3_ENDPOINT"):
        ResultStore(result_storage="s3://bucket/x").exists("x")


class Broken:
    """A block whose calls fail."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def read_path(self, path: str) -> bytes:
        raise self.error(path)

    async def write_path(self, path: str, content: bytes) -> None:
        raise self.error(path)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", [PermissionError, ConnectionError, RuntimeError])
def test_a_block_that_fails_is_unavailable(call: str, error: type[Exception]) -> None:
    with pytest.raises(StoreUnavailable, match=rf"Broken cannot (read|write) '.*': {error.__name__}"):
        CALLS[call](ResultStore(result_storage=Broken(error)))


def test_a_block_that_gives_no_bytes_is_refused() -> None:
    class Texts:
        def read_path(self, path: str) -> str:
            return "text"

        def write_path(self, path: str, content: bytes) -> None: ...

    with pytest.raises(BackendError, match="gave str, not bytes"):
        ResultStore(result_storage=Texts()).read("x")
