"""Clients that are not simple: a program that forks after it has used the queue, threads that share one TLS wire."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.cluster.pki import Authority
from tests.integration.worker import served
from tests.integration.worker.conftest import Start
from tests.servers.redis import RedisServer

from kapstan import backend

PREFORK = """
import os
from tests.integration.worker import served

def works(first):
    return all(served.add.delay(first, n).result(timeout=30) == first + n for n in range(50)) and all(
        served.add.submit(first, n).result(timeout=30) == first + n for n in range(10)
    )

assert works(0)
children = []
for child in range(4):
    pid = os.fork()
    if not pid:
        os._exit(0 if works(1000 * child) else 1)
    children.append(pid)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
print(codes, works(9000))
"""


def test_a_program_that_forks_after_it_has_used_the_queue(server: RedisServer, start: Start) -> None:
    start(limit=2)
    command = [sys.executable, "-c", PREFORK]
    run = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "[0, 0, 0, 0] True", run.stderr


@pytest.fixture
def secured(tmp_path: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """A Redis with TLS, which this process and the workers use."""
    authority = Authority(tmp_path / "pki")
    authority.server("redis", "/CN=localhost", "DNS:localhost")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    files = {"cert": "redis.crt", "key": "redis.key", "ca-cert": "ca.crt"}
    options = [part for what, name in files.items() for part in (f"--tls-{what}-file", str(tmp_path / "pki" / name))]
    redis = RedisServer(tmp_path / "secured", options=("--tls-port", str(port), "--tls-auth-clients", "no", *options))
    redis.start()
    monkeypatch.setenv("KAPSTAN_REDIS_URL", f"rediss://localhost:{port}?ssl_ca_certs={authority.certificate}")
    backend.use(None)
    yield redis
    backend.use(None)
    redis.stop()


def test_threads_that_share_one_connection_with_tls(secured: RedisServer, start: Start) -> None:
    start(limit=2)
    with ThreadPoolExecutor(12) as pool:
        sums = list(pool.map(lambda n: served.add.delay(n, 1).result(timeout=30), range(600)))
    assert sums == [n + 1 for n in range(600)]
