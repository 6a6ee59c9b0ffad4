"""Safe to call a hundred times, only one charge ever happens: the durability page's snippet, with each lock manager."""

from __future__ import annotations

import base64
import importlib
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from tests.servers.postgres import postgres as postgres
from tests.servers.redis import RedisServer
from tests.servers.worker import Worker

from kapstan import backend
from kapstan.locking import (
    FileSystemLockManager,
    LockManager,
    MemoryLockManager,
    PostgresLockManager,
    RedisLockManager,
)

REPOSITORY = Path(__file__).resolve().parents[3]
PROCESSES, CALLERS = 4, 100


@pytest.fixture
def redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    server.start()
    monkeypatch.setenv("KAPSTAN_REDIS_URL", server.url)
    yield server
    backend.use(None)
    server.stop()


@pytest.fixture(params=["redis", "files", "postgres", "memory"])
def manager(request: pytest.FixtureRequest, redis: RedisServer, tmp_path: Path) -> LockManager:
    if request.param == "redis":
        return RedisLockManager(host="127.0.0.1", port=redis.port)
    if request.param == "files":
        return FileSystemLockManager(tmp_path / "locks")
    if request.param == "memory":  # orders nobody across processes; the register decides all the same
        return MemoryLockManager()
    return PostgresLockManager(request.getfixturevalue("postgres").dsn)


@pytest.fixture
def ledger(manager: LockManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KAPSTAN_TEST_LOCK_MANAGER", base64.b64encode(pickle.dumps(manager)).decode())
    monkeypatch.setenv("KAPSTAN_TEST_LEDGER", str(tmp_path / "ledger"))
    return tmp_path / "ledger"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_hundred_callers_in_four_processes(ledger: Path, kind: str) -> None:
    command = [sys.executable, "-m", "tests.integration.payments.snippet", str(CALLERS // PROCESSES), kind, "order-1"]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'operator'}:{REPOSITORY}"}
    running = [
        subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(PROCESSES)
    ]
    results = [line for process in running for line in process.communicate(timeout=100)[0].splitlines()]
    print(f"callers={CALLERS} charges={len(ledger.read_text().splitlines())} different_results={len({*results})}")
    assert [process.returncode for process in running] == [0] * PROCESSES
    assert len(ledger.read_text().splitlines()) == 1
    assert len(results) == CALLERS
    assert len({*results}) == 1


@pytest.fixture
def snippet(ledger: Path) -> ModuleType:
    """The module as the web app imports it; its task's lock manager is the one of the environment."""
    return importlib.reload(importlib.import_module("tests.integration.payments.snippet"))


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_hundred_background_runs_on_four_workers(ledger: Path, snippet: ModuleType, kind: str) -> None:
    charge_card = snippet.charge_card if kind == "sync" else snippet.charge_card_async
    workers = [Worker("tests.integration.payments.snippet") for _ in range(PROCESSES)]
    try:
        for worker in workers:
            worker.ready()
        futures = [charge_card.delay("order-2", 100) for _ in range(CALLERS)]
        results = [future.result(timeout=90) for future in futures]
    finally:
        for worker in workers:
            worker.close()
    charges = ledger.read_text().splitlines()
    print(f"runs={CALLERS} workers={PROCESSES} charges={len(charges)}")
    assert len(charges) == 1
    assert results == [results[0]] * CALLERS
