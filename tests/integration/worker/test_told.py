"""A run with an effect that was told to have failed, and a Redis that forgets it: it is not executed again, unless a
person wants it to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.integration.keyed.charging import effects
from tests.integration.worker import charged
from tests.integration.worker.conftest import Sink
from tests.servers.redis import RedisServer
from tests.servers.worker import Worker

from kapstan import backend, ids
from kapstan.cli.task_run import command
from kapstan.futures import Future
from kapstan.runs.task_runs import TaskRuns
from kapstan.runs.words import ENDED


@pytest.fixture
def forgets(
    server: RedisServer, sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], None]]:
    """A worker begins; called, Redis comes back as it was before that."""
    monkeypatch.setenv("EFFECTS", str(tmp_path))
    workers: list[Worker] = []

    def forgets() -> None:
        if not workers:
            server.save_copy(tmp_path / "before")
            workers.append(Worker("tests.integration.worker.charged", limit=1).ready())
            return
        server.kill()
        server.put_back(tmp_path / "before")
        server.start()
        backend.use(None)

    yield forgets
    for worker in workers:
        worker.close()


def ended(future: Future[None]) -> str:
    """How its run has ended, once it has."""
    run_id = ids.parse(future.task_run_id)
    while (record := backend.current().queue.record(run_id)) is None or record.state not in ENDED:
        time.sleep(0.02)
    return f"{record.state}: {TaskRuns(backend.current()).view(run_id)[0].why}"


def test_a_failure_that_was_told_stays(forgets: Callable[[], None], tmp_path: Path) -> None:
    future = charged.refused.delay("1")
    forgets()
    told = ended(future)
    assert told.startswith("failed")
    assert "refused 1" in told
    forgets()
    assert ended(future) == told
    assert len(effects(tmp_path, "1")) == 1


def test_it_stays_though_another_run_of_the_key_failed_after_it(forgets: Callable[[], None], tmp_path: Path) -> None:
    futures = [charged.refused_alike.delay("2") for _ in range(2)]
    forgets()
    assert all("refused 2" in ended(future) for future in futures)
    assert len(effects(tmp_path, "2")) == 2, "who did not wait for a failure executes"
    forgets()
    first, second = [ended(future) for future in futures]
    assert "failed before, by the claim" in first
    assert "refused 2" in second
    assert len(effects(tmp_path, "2")) == 2


def test_a_person_has_it_executed_once_more(forgets: Callable[[], None], sink: Sink, tmp_path: Path) -> None:
    future = charged.refused.delay("3")
    forgets()
    sink.expect("began", "3")
    ended(future)
    for times in (2, 3):
        answer = CliRunner().invoke(command, ["retry", str(future.task_run_id)])
        assert answer.exit_code == 0, answer.output
        sink.expect("began", "3")
        assert "refused 3" in ended(future)
        assert len(effects(tmp_path, "3")) == times
    forgets()
    assert "refused 3" in ended(future)
    assert len(effects(tmp_path, "3")) == 3
