"""One system set up for one experiment: a Redis of its own, a file of effects, workers and callers as processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.bench.guarantees.sides import Side
from tests.servers.redis import RedisServer
from tests.servers.worker import REPOSITORY, await_exit


class DidNotBite(Exception):
    """What an experiment does to a system did not happen as it should; its figures say nothing."""


def until(holds: Callable[[], bool], seconds: float) -> bool:
    """Wait for it, at most so long; whether it came to hold."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@dataclass(slots=True)
class Caller:
    """A process that handed in one call."""

    process: subprocess.Popen[str]

    def answer(self) -> str:
        """What it got."""
        with self.process as process:
            assert process.stdout is not None
            said = process.stdout.read().strip()
        return said or f"its process ended with {process.returncode}"

    def was_answered(self) -> bool:
        return self.process.poll() is not None


@dataclass(frozen=True, slots=True)
class Running:
    """A worker with everything that it started."""

    process: subprocess.Popen[bytes]
    log: Path

    def members(self) -> list[int]:
        """The processes of its group."""
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if os.getpgid(int(entry.name)) == self.process.pid:
                    found.append(int(entry.name))
            except ProcessLookupError:
                continue
        return found

    def kill(self) -> int:
        """SIGKILL for all of it, as if its container were killed; how many processes went."""
        members = self.members()
        if members:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pid in members:
            await_exit(pid)
        return len(members)


class Site:
    """See the module. ``careful``: with what the system's manual offers against what is done here."""

    def __init__(self, side: Side, folder: Path, *, careful: bool) -> None:
        folder.mkdir(parents=True)
        self.side, self.folder = side, folder
        self.redis = RedisServer(folder / "redis")
        self.redis.start()
        self._environment = {
            **os.environ,
            "PATH": f"{side.bin}:{os.environ['PATH']}",
            "PYTHONPATH": f"{REPOSITORY / 'operator'}:{REPOSITORY}",
            "BENCH_REDIS_URL": self.redis.url,
            "KAPSTAN_REDIS_URL": self.redis.url,
            "KAPSTAN_HOME": str(folder / "home"),
            "BENCH_EFFECTS": str(folder),
            "BENCH_CAREFUL": "1" if careful else "0",
        }
        self._workers: list[Running] = []
        self._callers: list[Caller] = []

    def close(self) -> None:
        self.open_gate()
        for caller in self._callers:
            with caller.process as process:
                process.kill()
        for worker in self._workers:
            worker.kill()
        self.redis.stop()

    # ------------------------------------------------------------------ effects

    def effects(self, task: str = "") -> list[str]:
        """The lines of what was done, of one task or of all."""
        return [line for line in self._lines("effects") if line.startswith(task)]

    def ended(self) -> int:
        """How many effects were got through."""
        return len(self._lines("ended"))

    def _lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def close_gate(self) -> None:
        """Whoever begins an effect stays in it."""
        (self.folder / "gate").touch()

    def open_gate(self) -> None:
        (self.folder / "gate").unlink(missing_ok=True)

    def await_effects(self, number: int, seconds: float = 40) -> None:
        if not until(lambda: len(self.effects()) >= number, seconds):
            raise DidNotBite(f"{len(self.effects())} of {number} effects began within {seconds} s")

    # ------------------------------------------------------------------ processes

    def worker(self) -> Running:
        log = self.folder / f"worker-{len(self._workers)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [self.side.bin / self.side.worker[0], *self.side.worker[1:]],
                cwd=REPOSITORY,
                env=self._environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        running = Running(process, log)
        self._workers.append(running)
        return running

    def call(self, task: str, user: str = "u1", amount: int = 5, seconds: float = 60) -> Caller:
        """A new process has handed it in."""
        process = self._caller(task, user, str(amount), str(seconds))
        assert process.stdout is not None
        _read_until(process.stdout, "sent")
        caller = Caller(process)
        self._callers.append(caller)
        return caller

    def submit(self, times: int) -> float:
        """Seconds that one process needs to hand in so many calls, one after the other."""
        out, _ = self._caller("submit", str(times)).communicate()
        return float(out)

    def _caller(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.side.bin / "python", "-m", "tests.bench.guarantees.caller", self.side.module, *arguments],
            cwd=REPOSITORY,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )


def _read_until(output: IO[str], word: str) -> None:
    for line in output:
        if line.strip() == word:
            return
    raise DidNotBite("a caller could not hand in its call")


@contextmanager
def site(side: Side, folder: Path, *, careful: bool) -> Iterator[Site]:
    made = Site(side, folder, careful=careful)
    try:
        yield made
    finally:
        made.close()
