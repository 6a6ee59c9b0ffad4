"""A real worker, ``kapstan task serve`` in a process of its own: started, killed, stopped and drained at will."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


class Worker:
    """One worker process with ``limit`` executor children. Its output is kept in ``output``."""

    def __init__(
        self,
        module: str,
        *,
        limit: int = 1,
        session: str = "",
        env: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.session = session
        if session:
            env = {**(env or {}), "KAPSTAN_SESSION": session}
        command = [sys.executable, "-m", "kapstan", "task", "serve", "--limit", str(limit), *arguments]
        self._process = subprocess.Popen(
            [*command, "--module", module] if module else command,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": f"{REPOSITORY / 'operator'}:{REPOSITORY}", **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.pid = self._process.pid
        self.output: list[str] = []
        self._said = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._said:
                self.output.append(line.rstrip())
                self._said.notify_all()
        with self._said:
            self._said.notify_all()

    def await_line(self, text: str, timeout: float = 30.0) -> str:
        """Block until the worker has printed a line that contains ``text``; that line."""
        with self._said:
            self._said.wait_for(lambda: self._line(text) or not self._reader.is_alive(), timeout)
            line = self._line(text)
        assert line is not None, "\n".join(self.output)
        return line

    def _line(self, text: str) -> str | None:
        return next((line for line in self.output if text in line), None)

    @property
    def serving(self) -> bool:
        """Whether it has said so."""
        return self._line("Serving ") is not None

    def ready(self) -> Worker:
        self.await_line("Serving ")
        return self

    def children(self) -> list[int]:
        """The executors' process ids."""
        try:
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except FileNotFoundError:
            return []

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def signal_all(self, number: int) -> list[int]:
        """Signal supervisor and children together; the children's pids."""
        children = self.children()
        os.kill(self.pid, number)
        for pid in children:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, number)
        return children

    def kill(self) -> None:
        """SIGKILL for the supervisor and its children; returns when they are gone."""
        children = self.signal_all(signal.SIGKILL)
        self.wait()
        for pid in children:
            await_exit(pid)

    def wait(self, timeout: float = 30.0) -> int:
        code = self._process.wait(timeout)
        self._reader.join(timeout)
        return code

    def close(self) -> None:
        """Leave nothing of it behind."""
        if self._process.poll() is None:
            for pid in [*self.children(), self.pid]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        self.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def await_exit(pid: int, timeout: float = 10.0) -> None:
    """Block until process ``pid`` is gone (or was never there)."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([handle], [], [], timeout)
        assert ready, f"process {pid} still runs"
    finally:
        os.close(handle)
