"""Another process that uses locks: ``python -m tests.contract.locks.program MANAGER`` does what its input says.

MANAGER is a pickled lock manager (base 64). Each line in is a command, each line out an answer.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import os
import pickle
import select
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.contract.locks import interrupting

from kapstan.locking import LockManager

REPOSITORY = Path(__file__).resolve().parents[3]


class Program:
    """The process, seen from a test."""

    def __init__(self, manager: LockManager, **environment: str) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        pickled = base64.b64encode(pickle.dumps(manager)).decode()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.locks.program", pickled],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": f"{REPOSITORY / 'operator'}:{REPOSITORY}", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        self.pid = self._process.pid

    def tell(self, *command: object) -> Program:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(str(word) for word in command) + "\n")
        self._process.stdin.flush()
        return self

    def answer(self, within: float = 100) -> str:
        """The next one; a process that ends without, or takes longer, says why on its standard error."""
        assert self._process.stdout is not None
        late = threading.Timer(within, self._process.kill)
        late.start()
        try:
            line = self._process.stdout.readline()
        finally:
            late.cancel()
        assert line, f"no answer within {within:g} s, exit code {self._process.wait()}:\n{self._errors()}"
        return line.strip()

    def has_answered(self, within: float) -> bool:
        """Whether the only answer that is due comes."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], within)[0])

    def _errors(self) -> str:
        self._said.seek(0)
        return self._said.read()

    def ask(self, *command: object, within: float = 100) -> str:
        return self.tell(*command).answer(within)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            assert stream is not None
            stream.close()


def keepers_of(pid: int) -> list[int]:
    """The processes that keep the locks of ``pid`` alive in Redis."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if words[1:5] == [b"-P", b"-m", b"kapstan.queue.lock_keeper", str(pid).encode()]:
                found.append(int(folder.name))
    return found


def main() -> None:
    manager: Any = pickle.loads(base64.b64decode(sys.argv[1]))
    for line in sys.stdin:
        word, *rest = line.split()
        print(_COMMANDS[word](manager, *rest), flush=True)


def _acquire(manager: LockManager, key: str, holder: str, timeout: str = "30", hold: str = "") -> object:
    return manager.acquire_lock(key, holder, float(timeout), float(hold) if hold else None)


def _line_up(manager: LockManager, key: str, holder: str) -> str:
    """Wait for the lock on a thread of its own; says so when it has it."""
    threading.Thread(target=lambda: print(manager.acquire_lock(key, holder, 60), flush=True), daemon=True).start()
    return "waiting"


def _release(manager: LockManager, key: str, holder: str) -> str:
    return _said(lambda: manager.release_lock(key, holder))


def _guard(manager: LockManager, key: str, holder: str) -> str:
    return _said(lambda: manager.guard_lock(key, holder))


def _said(act: Any) -> str:
    try:
        return str(act())
    except ValueError as error:
        return type(error).__name__


def _hog(_: LockManager, seconds: str) -> str:
    """Hold the interpreter's lock: no other thread of this process runs."""
    ctypes.PyDLL(None).usleep(int(float(seconds) * 1e6))
    return "hogged"


def _close_files(_: LockManager) -> str:
    os.closerange(3, 1024)
    return "closed"


def _fork(manager: LockManager, key: str) -> str:
    """A child that outlives this process, and takes another lock itself."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        held = manager.acquire_lock(f"{key}-of-the-child", "child", 10)
        os.write(write, b"held" if held else b"not held")
        os.close(write)
        time.sleep(120)
        os._exit(0)
    os.close(write)
    said = os.read(read, 100).decode()
    os.close(read)
    return f"{child} {said}"


def _crowd(manager: LockManager, key: str, callers: str, file: str) -> str:
    """As many callers at once, each alone with the file while it holds the lock: overlaps show as torn lines."""

    def one(number: int) -> bool:
        holder = f"{os.getpid()}-{number}"
        if not manager.acquire_lock(key, holder, 60):
            return False
        token = manager.guard_lock(key, holder)
        with open(file, "a") as out:
            out.write(f"in {holder} {token}\n")
            out.flush()
            out.write(f"out {holder} {token}\n")
        manager.release_lock(key, holder)
        return True

    with ThreadPoolExecutor(int(callers)) as pool:
        return str(sum(pool.map(one, range(int(callers)))))


_COMMANDS: dict[str, Any] = {
    "interrupt_everywhere": interrupting.everywhere,
    "acquire": _acquire,
    "line_up": _line_up,
    "release": _release,
    "guard": _guard,
    "hog": _hog,
    "close_files": _close_files,
    "fork": _fork,
    "crowd": _crowd,
}

if __name__ == "__main__":
    main()
