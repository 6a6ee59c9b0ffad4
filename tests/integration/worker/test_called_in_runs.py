"""A background run whose code calls tasks with effects: however often it is executed, each call is done once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.keyed.charging import effects
from tests.integration.worker import checkout
from tests.servers.redis import RedisServer
from tests.servers.worker import Worker


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EFFECTS", str(tmp_path))
    return tmp_path


@pytest.fixture
def worker(server: RedisServer, folder: Path) -> Iterator[Worker]:
    started = Worker("tests.integration.worker.checkout", limit=1)
    yield started.ready()
    started.close()


@pytest.mark.parametrize("traps", [(), ("kill",), ("raise",), ("step",), ("step", "kill", "raise")])
def test_each_call_is_done_once(worker: Worker, folder: Path, traps: tuple[str, ...]) -> None:
    for trap in traps:
        (folder / trap).touch()
    assert checkout.checkout.delay("7").result(timeout=60) == ["paid 7"] * 4
    assert not any((folder / trap).exists() for trap in traps), "each of them bit"
    assert len(effects(folder, "7")) == 4
    assert len({key for _, key, *_ in effects(folder, "7")}) == 4, "each call has a key of its own"


def test_another_run_pays_anew(worker: Worker, folder: Path) -> None:
    for _ in range(2):
        assert checkout.checkout.delay("8").result(timeout=60) == ["paid 8"] * 4
    assert len(effects(folder, "8")) == 8
