"""Large results go to the store and come back in pieces: how much memory that takes, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.servers.minio import ACCESS_KEY, SECRET_KEY, Minio, minio, new_namespace, own_minio

__all__ = ["minio", "own_minio"]

PROGRAM = Path(__file__).with_name("large_results.py")
SIZE = 96  # MiB


@pytest.fixture(params=["local", "s3"])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    found = {
        **os.environ,
        "PYTHONPATH": "operator",
        "KAPSTAN_HOME": str(tmp_path / "home"),
        "KAPSTAN_MAX_VALUE_BYTES": str(1 << 30),
        "KAPSTAN_LOG_LEVEL": "WARNING",
        "MALLOC_MMAP_THRESHOLD_": str(128 * 1024),  # what is freed goes back at once, so that the peak is what was held
    }
    if request.param == "s3":
        server: Minio = request.getfixturevalue("minio")
        found |= {
            "KAPSTAN_S3_ENDPOINT": server.url,
            "KAPSTAN_S3_ACCESS_KEY": ACCESS_KEY,
            "KAPSTAN_S3_SECRET_KEY": SECRET_KEY,
            "KAPSTAN_NAMESPACE": new_namespace(),
        }
    return found


def grown(environment: dict[str, str], way: str, kind: str) -> tuple[float, str]:
    """By how much the peak grew, in parts of the value's size, and the value's digest."""
    command = [sys.executable, str(PROGRAM), way, kind, str(SIZE)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, (ended.returncode, ended.stdout, ended.stderr)
    share, digest = ended.stdout.split()
    return float(share), digest


@pytest.mark.parametrize(
    ("kind", "written", "read"),
    [("bytes", 0.0, 1.0), ("text", 1.0, 2.0)],  # text is JSON, which is made and read as one text
)
def test_a_large_result_is_held_once(environment: dict[str, str], kind: str, written: float, read: float) -> None:
    """Beside the value nothing of bytes is held, and one text of JSON; what may come on top are the parts on their
    way."""
    spare = 0.4
    put, digest = grown(environment, "store", kind)
    kept, _ = grown(environment, "flow", kind)
    got, same = grown(environment, "read", kind)
    assert same == digest
    print(f"peak beside a value of {SIZE} MiB {kind}: written {put:.2f}, by a flow {kept:.2f}; read, with it {got:.2f}")
    assert put < written + spare
    assert kept < written + spare
    assert read - 0.1 < got < read + spare
