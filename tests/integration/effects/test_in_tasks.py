"""``effects.inbox`` in a task of the class ``transactional``: its key and token are the run's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.effects.conftest import Database
from tests.integration.effects.ledger_task import charge_in_the_ledger
from tests.servers.redis import RedisServer
from tests.servers.worker import Worker

from kapstan import backend


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Database]:
    database = Database("sqlite", str(tmp_path / "database"))
    yield database
    database.close()


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    redis = RedisServer(tmp_path / "redis")
    redis.start()
    monkeypatch.setenv("KAPSTAN_REDIS_URL", redis.url)
    backend.use(None)
    worker = Worker("tests.integration.effects.ledger_task")
    yield worker.ready()
    worker.close()
    backend.use(None)
    redis.stop()


def test_the_key_and_the_token_are_the_runs(ledger: Database) -> None:
    first = charge_in_the_ledger(ledger.place, "order", "")
    assert first["token"] > 0
    assert charge_in_the_ledger(ledger.place, "order", "") == first
    assert ledger.charges("order") == 1
    backend.use(None)


def test_a_run_that_dies_behind_its_transaction_is_no_second_charge(
    ledger: Database, worker: Worker, tmp_path: Path
) -> None:
    died = tmp_path / "died"
    result = charge_in_the_ledger.delay(ledger.place, "order", str(died)).result(timeout=60)
    assert died.exists()
    assert result["repeat"]
    assert ledger.charges("order") == 1
