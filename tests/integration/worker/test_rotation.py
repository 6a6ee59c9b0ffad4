"""The signing key is rotated in two steps while clients submit and workers serve: nothing is lost."""

from __future__ import annotations

import base64
import signal
from collections.abc import Mapping

import pytest
from tests.integration.worker import served
from tests.integration.worker.conftest import Start
from tests.servers.redis import RedisServer

from kapstan import backend
from kapstan.futures import Future

OLD, NEW = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
STEPS: list[Mapping[str, str]] = [
    {"KAPSTAN_SIGNING_KEY": key, "KAPSTAN_SIGNING_KEY_PREVIOUS": previous}
    for key, previous in ((OLD, ""), (OLD, NEW), (NEW, OLD))
]
RUNS = 200


def test_nothing_is_lost_while_a_key_is_rotated(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def client(step: int) -> None:
        for name, value in STEPS[step].items():
            monkeypatch.setenv(name, value)
        backend.use(None)

    client(0)
    before = start(2, env=dict(STEPS[0]))
    futures: list[Future[int]] = []
    for step in (1, 2):
        futures += [served.add.delay(number, step) for number in range(RUNS)]  # of clients not yet restarted
        after = start(2, env=dict(STEPS[step]))  # workers of both steps serve at once
        client(step)
        futures += [served.add.delay(number, step) for number in range(RUNS)]  # ... and of those that are
        results = [future.result(timeout=60) for future in futures]
        assert results == [number + each for each in range(1, step + 1) for _ in range(2) for number in range(RUNS)]
        before.signal(signal.SIGTERM)
        before = after
    print(f"runs={len(futures)} refused=0 lost={4 * RUNS - len(results)}")
