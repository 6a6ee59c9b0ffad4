"""Keyed runs in real processes, on both stores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tests.servers.minio import Minio, minio, new_namespace, own_minio
from tests.servers.redis import server

from kapstan import backend as backends
from kapstan.settings import Settings

__all__ = ["minio", "own_minio", "server"]
ROOT = Path(__file__).parents[3]


@pytest.fixture(params=["local", "s3"])
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """Settings of a namespace of the test's own; this process uses them, too."""
    home, namespace = str(tmp_path / "home"), new_namespace()
    if request.param == "local":
        made = Settings(home=home, namespace=namespace)
    else:
        server: Minio = request.getfixturevalue("minio")
        made = server.settings(home=home, namespace=namespace)
    backends.use(made)
    assert backends.current().codec  # the key of the home is made once, here
    backends.current().store.get("first")
    yield made
    backends.use(None)


class Processes:
    """Forks a fresh process for each call; see ``charging.serve``."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.keyed.charging"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline().strip()

    def run(self, setting: Settings, **order: Any) -> tuple[int, Any]:
        """(exit code, result) of one process; its pid instead of the code with ``leave=True``."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps({"settings": asdict(setting), **order}) + "\n")
        self._server.stdin.flush()
        code, result = json.loads(self._line())
        return code, result

    def close(self) -> None:
        self._server.kill()
        self._server.communicate()


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    made = Processes()
    yield made
    made.close()
