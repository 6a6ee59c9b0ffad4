"""A Redis of this test alone, workers on it, and the sink to which their tasks tell what they do."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.servers.minio import own_minio as own_minio
from tests.servers.redis import RedisServer
from tests.servers.worker import Worker

from kapstan import backend

MODULE = "tests.integration.worker.served"
LEASE, BEAT = 2.0, 0.5
MARK = "mark"
"""A datagram of the test's own: what was sent before it has been read when it has."""


@contextmanager
def used(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Generator[RedisServer]:
    """``redis`` runs, and this process and the workers use it, with a short lease."""
    redis.start()
    monkeypatch.setenv("KAPSTAN_REDIS_URL", redis.url)
    monkeypatch.setenv("KAPSTAN_LEASE_SECONDS", str(LEASE))
    monkeypatch.setenv("KAPSTAN_BEAT_SECONDS", str(BEAT))
    backend.use(None)
    yield redis
    backend.use(None)
    redis.stop()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """A Redis with an append-only file; this process and the workers use it, with a lease of 2 s."""
    with used(RedisServer(tmp_path / "redis"), monkeypatch) as redis:
        yield redis


Event = tuple[str, str, int]


class Sink:
    """Receives what the tasks tell: (what, tag, pid)."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._path = path
        self._told = threading.Condition()
        self._events: list[Event] = []
        self._read = self._marks = self._asked = 0
        self._reader = threading.Thread(target=self._receive, daemon=True)
        self._reader.start()

    def _receive(self) -> None:
        while message := self._socket.recv(4096):
            words = message.decode().split()
            with self._told:
                if words[0] == MARK:
                    self._marks += 1
                else:
                    what, tag, pid = words
                    self._events.append((what, tag, int(pid)))
                self._told.notify_all()

    def _send(self, message: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(message, str(self._path))

    @property
    def events(self) -> list[Event]:
        """Everything that was sent before this call."""
        self._asked += 1
        self._send(MARK.encode())
        with self._told:
            assert self._told.wait_for(lambda: self._marks >= self._asked, 20.0), "the sink's reader has ended"
            return list(self._events)

    def next(self, timeout: float = 20.0) -> Event:
        """The next event that no call has returned yet."""
        with self._told:
            assert self._told.wait_for(lambda: len(self._events) > self._read, timeout), self._events
            self._read += 1
            return self._events[self._read - 1]

    def expect(self, what: str, tag: str, timeout: float = 20.0) -> int:
        """Read events until ``what tag`` comes; the pid that told it."""
        deadline = time.monotonic() + timeout
        while True:
            event = self.next(max(0.01, deadline - time.monotonic()))
            if event[:2] == (what, tag):
                return event[2]

    def close(self) -> None:
        self._send(b"")
        self._reader.join(5)
        self._socket.close()


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sink]:
    path = Path(f"/tmp/kapstan-sink-{os.getpid()}")  # short: the path of a socket has at most 107 characters
    path.unlink(missing_ok=True)
    monkeypatch.setenv("SINK", str(path))
    sink = Sink(path)
    yield sink
    sink.close()
    path.unlink()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.close()


class Gate:
    """A named pipe that holds tasks back until it is opened; each takes one byte out of it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        os.mkfifo(path)
        self._pipe = os.open(path, os.O_RDWR)

    def open(self) -> None:
        """Let everyone through who waits now or comes later."""
        os.write(self._pipe, b"." * 1000)

    def close(self) -> None:
        os.close(self._pipe)


Start = Callable[..., Worker]


@pytest.fixture
def start(server: RedisServer, sink: Sink) -> Iterator[Start]:
    """Starts workers that serve ``served``; they are gone after the test."""
    workers: list[Worker] = []

    def start(limit: int = 1, *, env: dict[str, str] | None = None, arguments: tuple[str, ...] = ()) -> Worker:
        worker = Worker(MODULE, limit=limit, env=env, arguments=arguments)
        workers.append(worker)
        return worker.ready()

    yield start
    for worker in workers:
        worker.close()
