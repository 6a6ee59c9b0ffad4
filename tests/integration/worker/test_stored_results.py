"""Results of background runs in storages that their tasks name: read by id from another process; storages that are
away; large ones, which are never kept whole beside a store that takes them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.integration.worker import served
from tests.integration.worker.conftest import MODULE, Sink, Start
from tests.integration.worker.test_store_away import LocalFault, executions
from tests.servers.worker import Worker

from kapstan import Future, backend, results
from kapstan.errors import MissingResult, SignatureError, UnknownRun
from kapstan.ids import new_id
from kapstan.states import ExitCode

SMALL, LARGE, STREAMED = 100, 20_000, 20_000_000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KAPSTAN_TEST_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


def values_in(folder: Path) -> list[Path]:
    return [path for path in (folder / "values").rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", [SMALL, LARGE, STREAMED])
def test_a_result_is_read_by_id_from_its_storage(folder: Path, start: Start, sink: Sink, size: int) -> None:
    start()
    run_id = str(served.stored.delay("t", size).task_run_id)
    Future(run_id).wait(timeout=30)
    (stored,) = values_in(folder)
    value = results.read(run_id)
    assert len(value) == size // 16 * 16
    assert (
        asyncio.run(results.aread(run_id)) == value == Future(run_id).result() == results.read_task_run(run_id).result()
    )
    assert executions(sink, "t") == 1
    body = stored.read_bytes()
    stored.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    with pytest.raises(SignatureError):
        results.read(run_id)
    stored.unlink()
    with pytest.raises(MissingResult, match=f"is not in the store file://{folder} any more"):
        results.read(run_id)


@pytest.mark.parametrize("size", [SMALL, LARGE, STREAMED])
def test_a_storage_that_refuses_is_waited_for(folder: Path, start: Start, sink: Sink, size: int) -> None:
    worker = start()
    served.stored.delay("before", SMALL).result(timeout=20)
    aside = folder / ".kapstan" / "aside"
    aside.rmdir()
    aside.touch()
    future = served.stored.delay("t", size)
    worker.await_line("for a store that takes its")
    aside.unlink()
    aside.mkdir()
    assert len(future.result(timeout=30)) == size // 16 * 16
    assert executions(sink, "t") == 1


@pytest.mark.parametrize("size", [SMALL, LARGE, STREAMED])
def test_a_result_stands_under_the_key_that_its_task_gives_it(start: Start, sink: Sink, size: int) -> None:
    worker = start()
    future = served.named.delay("äb", size)
    assert future.result(timeout=30) == {"text": "b" * size}
    store = results.ResultStore()
    assert store.read("by-tag/äb").result == {"text": "b" * size}
    fault = LocalFault()
    fault.begin()
    future = served.named.delay("c", size)
    worker.await_line("for a store that takes its")
    fault.end()
    assert future.result(timeout=30) == {"text": "c" * size}
    assert store.read("by-tag/c").result == {"text": "c" * size}
    assert executions(sink, "c") == 1


def test_without_a_key_it_does_not_run(start: Start, sink: Sink) -> None:
    start()
    with pytest.raises(Exception, match=r"the key 'by-tag/\.\.' of a result cannot be"):
        served.named.delay("..", 1).result(timeout=20)
    assert executions(sink, "..") == 0


def test_a_run_that_nobody_knows_is_told(server: object) -> None:
    assert backend.current().settings.redis_url
    with pytest.raises(UnknownRun, match="no flow run and no background run"):
        results.read(new_id())
    with pytest.raises(UnknownRun, match="holds no end of task run"):
        results.read(new_id(), flow_run_id=new_id())


def test_a_worker_whose_settings_name_no_storage_does_not_start(server: object) -> None:
    """It would execute runs, and wait for ever for a place to put their results."""
    assert server
    worker = Worker(MODULE, env={"KAPSTAN_RESULT_STORAGE": "s3://lake/x"})
    worker.await_line("needs KAPSTAN_S3_ENDPOINT")
    assert worker.wait() == ExitCode.USAGE
    worker.close()
