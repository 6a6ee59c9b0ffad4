"""``persist_result=True``: a worker that is killed between store and commit has its run executed once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.worker import persisting
from tests.integration.worker.conftest import Sink, own_minio
from tests.servers.minio import Minio, new_namespace
from tests.servers.redis import RedisServer
from tests.servers.worker import Worker

from kapstan import backend, ids

__all__ = ["own_minio"]


@pytest.fixture(params=["local", "s3"])
def workers(
    request: pytest.FixtureRequest, server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Worker]]:
    """The workers of a test, on one store; they are gone after it."""
    if request.param == "s3":
        minio: Minio = request.getfixturevalue("own_minio")
        settings = minio.settings()
        for name in ("s3_endpoint", "s3_access_key", "s3_secret_key", "s3_bucket"):
            monkeypatch.setenv(f"KAPSTAN_{name.upper()}", getattr(settings, name))
        monkeypatch.setenv("KAPSTAN_NAMESPACE", new_namespace())
    monkeypatch.setenv("KAPSTAN_TEST_DIED", str(tmp_path / "died"))
    backend.use(None)
    started: list[Worker] = []
    yield started
    for worker in started:
        worker.close()
    assert server.url


@pytest.mark.parametrize("size", [10, 30_000])
@pytest.mark.parametrize("victim", ["child", "worker"])
def test_what_was_stored_before_a_kill_is_not_executed_again(
    workers: list[Worker], sink: Sink, monkeypatch: pytest.MonkeyPatch, victim: str, size: int
) -> None:
    monkeypatch.setenv("KAPSTAN_TEST_VICTIM", victim)
    for _ in range(2):
        workers.append(Worker(persisting.__name__))
        workers[-1].ready()
    future = persisting.kept.apply_async(("t", size), idempotency_key="order-7")
    dead = sink.expect("dies", "stored")
    assert future.result(timeout=30) == "x" * size
    assert [event for event in sink.events if event[0] == "ran"] == [("ran", "t", dead)]
    record = backend.current().queue.record(ids.parse(future.task_run_id))
    assert record is not None
    assert record.token.epoch > 1, "it was claimed again"
