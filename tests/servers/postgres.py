"""A real PostgreSQL for tests: a cluster of its own in a folder of the test's, on a socket there, killed and started
again at will. No service of the machine's is used or touched.

PostgreSQL refuses to run as root, so root starts it as the user ``postgres`` that Debian's package makes (or nobody).
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs, or a skip."""
    packaged = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = str(packaged[-1]) if packaged else shutil.which(name)
    if not found:
        pytest.skip("no PostgreSQL here: Debian has it in the package postgresql")
    return found


class PostgresServer:
    """One cluster; ``dsn`` stays the same over restarts, and so does what it holds.

    Attributes:
        port: of loopback TCP, for tests that put a relay in between.
    """

    def __init__(self) -> None:
        # A short path of its own: a socket's is at most 107 characters, and a test's folder is not for other users.
        self._folder = Path(tempfile.mkdtemp(prefix="kpg-"))
        self._user = _unprivileged()
        if self._user is not None:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        self.dsn = f"host={self._folder} port={self.port} dbname=postgres user=kapstan"
        self._run([program("initdb"), "-D", str(self._data), "-U", "kapstan", "-A", "trust", "-N", "-E", "UTF8"])

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def tcp_dsn(self) -> str:
        return f"host=127.0.0.1 port={self.port} dbname=postgres user=kapstan"

    def start(self) -> None:
        """Returns when it answers."""
        options = {
            "unix_socket_directories": str(self._folder),
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "max_connections": "60",
            "dynamic_shared_memory_type": "mmap",
        }
        command = [program("postgres"), "-D", str(self._data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as_user(), *command], stdout=log, stderr=log, env={**os.environ, "LC_ALL": "C"}
            )
        until = time.monotonic() + 30
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "server.log").read_text()
            assert time.monotonic() < until, "PostgreSQL does not answer"
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL for the server and its sessions; returns when they are gone."""
        self._stop(signal.SIGKILL)

    def stop(self) -> None:
        """End every session and shut down."""
        self._stop(signal.SIGINT)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _stop(self, number: int) -> None:
        if self._process is None:
            return
        sessions = _children(self._process.pid)
        os.kill(self._process.pid, number)
        if number == signal.SIGKILL:
            for pid in sessions:
                _kill(pid)
        self._process.wait(30)
        self._process = None
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def _answers(self) -> bool:
        ready = [program("pg_isready"), "-q", "-h", str(self._folder), "-p", str(self.port)]
        return subprocess.run(ready).returncode == 0

    def _run(self, command: Sequence[str]) -> None:
        done = subprocess.run(
            [*self._as_user(), *command], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}
        )
        assert done.returncode == 0, done.stderr

    def _as_user(self) -> list[str]:
        if self._user is None:
            return []
        return ["setpriv", f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups"]


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom to run it as; None: as this process' user."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One for all tests that import it: what they kill leaves what it held, so count only in a database of your own."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()
