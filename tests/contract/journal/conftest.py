"""A journal on every store, and logs that stop at their appends so that a test decides when they go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tests.servers.minio import Minio, minio, new_namespace

from kapstan.codec import Codec
from kapstan.ids import RunId, new_id
from kapstan.journal import Journal
from kapstan.ports import RunLog, Store
from kapstan.signing_key import SigningKey
from kapstan.store.local import LocalStore
from kapstan.store.s3 import S3Store

__all__ = ["minio"]


@pytest.fixture
def codec() -> Codec:
    return Codec("ns", [SigningKey.of(b"k" * 32)])


@pytest.fixture
def run_id() -> RunId:
    return new_id()


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def s3(minio: Minio) -> Iterator[S3Store]:
    store = S3Store.from_settings(minio.settings(namespace=new_namespace()))
    yield store
    store.close()


@pytest.fixture(params=["s3", "local"])
def store(request: pytest.FixtureRequest) -> Store:
    return request.getfixturevalue(request.param)


class GatedLog:
    """A real log whose appends wait at a gate.

    Attributes:
        batches: how many records each append that went through had.
        error: raised by the next append instead of writing, once; after writing if ``after`` is set.
    """

    def __init__(self, log: RunLog) -> None:
        self._log = log
        self._gate = threading.Semaphore(0)
        self._changed = threading.Condition()
        self._arrived = 0
        self._open = True
        self.batches: list[int] = []
        self.error: BaseException | None = None
        self.after = False

    def shut(self) -> None:
        """From now on each append waits for ``let``."""
        self._open = False

    def let(self, appends: int) -> None:
        for _ in range(appends):
            self._gate.release()

    def wait_for_append(self, number: int) -> None:
        """Wait until so many appends have come to the shut gate."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._arrived >= number, 30)

    def append(self, records: Sequence[bytes]) -> None:
        if not self._open:
            with self._changed:
                self._arrived += 1
                self._changed.notify_all()
            assert self._gate.acquire(timeout=30)
        error, self.error = self.error, None
        if error is not None and not self.after:
            raise error
        self._log.append(records)
        self.batches.append(len(records))
        if error is not None:
            raise error

    def read(self) -> list[bytes]:
        return self._log.read()

    def open(
        self, opening: bytes, admit: Callable[[Sequence[bytes]], None] | None = None, *, attempt: int = 0
    ) -> list[bytes]:
        return self._log.open(opening, admit, attempt=attempt)

    def close(self) -> None:
        self._log.close()


class GatedStore(LocalStore):
    """A directory whose logs are gated; the last one made is ``gated``."""

    gated: GatedLog

    def log(self, name: str) -> GatedLog:  # type: ignore[override]
        self.gated = GatedLog(super().log(name))
        return self.gated


@pytest.fixture
def gated(tmp_path: Path, codec: Codec, run_id: RunId) -> Iterator[tuple[Journal, GatedLog]]:
    """An open journal of ``run_id`` and its log."""
    store = GatedStore(tmp_path / "store")
    journal = Journal(store, codec, run_id)
    journal.open(1, host="h", now=1.0)
    yield journal, store.gated
    store.gated.let(100)
    journal.close()
