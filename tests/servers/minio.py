"""A real MinIO on this machine, for tests: started on a free port in a folder of its own, killed and started again at
will.

The program comes from KAPSTAN_TEST_CACHE or from ``~/.cache/kapstan/cluster`` (``make cluster-up`` builds it), else
from PATH. Where it is missing a test is skipped with one reason, which CI turns into a failure.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from kapstan.settings import Settings
from kapstan.store.s3 import S3Store

ACCESS_KEY, SECRET_KEY = "kapstan-test", "kapstan-test-secret"
BUCKET = "kapstan"


def new_namespace() -> str:
    """One that nobody else has."""
    return f"t{secrets.token_hex(8)}"


def binary() -> str:
    """The path of ``minio``, or a skip."""
    cache = Path(os.environ.get("KAPSTAN_TEST_CACHE") or "~/.cache/kapstan/cluster").expanduser()
    path = cache / "bin" / "minio"
    found = str(path) if path.is_file() else shutil.which("minio")
    if not found:
        pytest.skip("no minio program: `make cluster-up` builds one, or put it on PATH")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Minio:
    """One server; ``url`` stays the same over restarts, and so does what stands in ``folder``."""

    def __init__(self, folder: Path, **further: str) -> None:
        """``further``: variables of its environment."""
        self.folder = folder
        self._further = further
        self._address = f"127.0.0.1:{free_port()}"
        self._console = f"127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://{self._address}"

    def start(self) -> None:
        """Returns when it answers."""
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        with (self.folder / "minio.log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary(), "server", "--address", self._address, "--console-address", self._console, str(data)],
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(self.folder),
                    "MINIO_ROOT_USER": ACCESS_KEY,
                    "MINIO_ROOT_PASSWORD": SECRET_KEY,
                    "MINIO_BROWSER": "off",
                    "MINIO_UPDATE": "off",
                    "CI": "true",
                    **self._further,
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        retry = urllib3.Retry(total=200, backoff_factor=0.02, backoff_max=0.2, status_forcelist=[503])
        with urllib3.PoolManager(retries=retry) as pool:
            answer = pool.request("GET", f"{self.url}/minio/health/ready", timeout=2)
        assert answer.status == 200, (self.folder / "minio.log").read_text()

    def said(self) -> str:
        """Its output."""
        return (self.folder / "minio.log").read_text()

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def settings(self, url: str = "", **changed: object) -> Settings:
        """Settings that name this server, or the proxy at ``url`` in front of it."""
        values = {
            "s3_endpoint": url or self.url,
            "s3_bucket": BUCKET,
            "s3_access_key": ACCESS_KEY,
            "s3_secret_key": SECRET_KEY,
            "store_deadline_seconds": 30.0,
            **changed,
        }
        return Settings(**values)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    """A server for the whole session, with the bucket made. Tests keep apart by namespace."""
    server = Minio(tmp_path_factory.mktemp("minio"))
    yield from serve(server)


@pytest.fixture
def own_minio(tmp_path: Path) -> Iterator[Minio]:
    """A server that the test may kill."""
    yield from serve(Minio(tmp_path / "minio"))


def serve(server: Minio) -> Iterator[Minio]:
    """Start it, make the bucket, and kill it at the end."""
    server.start()
    try:
        store = S3Store.from_settings(server.settings())
        store.ensure_bucket()
        store.close()
        yield server
    finally:
        server.kill()
