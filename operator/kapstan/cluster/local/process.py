"""One launched process as its folder tells it: who it is, whether it lives, how it ended, and how to end it.

Used by `processes`; the other side is `waiter`. All of it is in files, so that a launcher that was killed and started
again, which is nobody's parent, knows as much as before. Synchronous and quick.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kapstan.cluster.local.objects import write

_WAITER = Path(__file__).with_name("waiter.py")


class Process:
    """See the module; ``folder`` is the process' own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # ------------------------------------------------------------------ what is known

    @property
    def request(self) -> dict[str, Any] | None:
        """What it was started for; None: there is no such process."""
        return self._json("request")

    @property
    def alive(self) -> bool:
        """Whether the command, or the waiter that is about to start it, lives."""
        try:
            descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    @property
    def pid(self) -> int | None:
        content = self._json("pid")
        return int(content["pid"]) if content else None

    @property
    def started_at(self) -> float | None:
        content = self._json("pid")
        return float(content["at"]) if content else None

    @property
    def exit(self) -> tuple[int, float] | None:
        """Exit code (negative: the signal) and when, Unix seconds; None: it was not seen to end."""
        content = self._json("exit")
        return (int(content["code"]), float(content["at"])) if content else None

    @property
    def ended(self) -> bool:
        """It was started, and nothing of it lives any more."""
        if self.exit is not None:
            return True
        return self.pid is not None and not self.alive

    @property
    def stopping(self) -> float | None:
        """When SIGKILL follows the SIGTERM that was sent, Unix seconds."""
        content = self._json("stop")
        return float(content["kill_at"]) if content else None

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def last_line(self) -> str:
        """The last line that it wrote."""
        with contextlib.suppress(FileNotFoundError), self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
            lines = file.read().decode(errors="replace").strip().splitlines()
            return lines[-1] if lines else ""
        return ""

    # ------------------------------------------------------------------ what is done

    def start(
        self, request: Mapping[str, Any], command: Sequence[str], *, cwd: str, environ: Mapping[str, str]
    ) -> None:
        """Start the command unless it was started before; ``request`` is kept beside it. Takes some 20 ms, after which
        it is `alive` or has ended already."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.exit is not None or self.pid is not None or self.alive:
            return
        write(self.folder / "request", json.dumps(request).encode())
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self.folder / "alive", 0o600)
        subprocess.run(
            [sys.executable, "-I", "-S", str(_WAITER), str(self.folder), *command],
            cwd=cwd,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            check=False,
        )

    def stop(self, kill_at: float) -> None:
        """SIGTERM, once, as soon as there is a pid; whoever looks after ``kill_at`` sends SIGKILL."""
        content = self._json("stop") or {"kill_at": kill_at, "sent": False}
        if self.ended or content["sent"]:
            return
        content["sent"] = self.pid is not None
        write(self.folder / "stop", json.dumps(content).encode())
        self._signal(signal.SIGTERM, group=False)

    def kill(self) -> None:
        """SIGKILL, to it and what it started."""
        self._signal(signal.SIGKILL, group=True)

    def _signal(self, number: signal.Signals, *, group: bool) -> None:
        pid = self.pid
        if pid is None or self.exit is not None or not self.alive:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # It leads a group of its own: a pid that does not is somebody else's by now.
            if os.getpgid(pid) == pid:
                (os.killpg if group else os.kill)(pid, number)

    def forget(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _json(self, name: str) -> dict[str, Any] | None:
        try:
            return json.loads((self.folder / name).read_bytes())
        except FileNotFoundError:
            return None
