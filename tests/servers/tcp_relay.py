"""A TCP relay in front of a real server that falls silent, loses a reply or delivers late, when a test says so.

Bytes are never changed and never reordered. What is held back while it is silent is delivered afterwards, as a network
does that comes back.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType


class TcpRelay:
    """Listens at ``port`` of loopback and leads to ``upstream``, a port of it. Use as a context manager.

    Attributes:
        held: set once bytes were held back: the silence has bitten.
        lost: set once a reply was lost.
        accepted: connections that were made so far.
        stranded: set once a piece was held back whose client was hung up on.
        answered: set once the server has answered what was delivered late.
    """

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        self._replies_left: int | None = None
        self._closed = False
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.held = threading.Event()
        self.lost = threading.Event()
        self.accepted = 0
        self._late: bytes | None = None
        self._late_ends: list[socket.socket] = []
        self._delivering = threading.Event()
        self.stranded = threading.Event()
        self.answered = threading.Event()

    def __enter__(self) -> TcpRelay:
        self._run(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._flowing.set()
        self._delivering.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for end in self._sockets:
            _hang_up(end)
        for thread in self._threads:
            thread.join(10)
        for end in (self._listener, *self._sockets):
            end.close()

    def silent(self) -> None:
        """Connections stay up and new ones are accepted; nothing gets through in either direction."""
        self._flowing.clear()

    def flow(self) -> None:
        """Deliver what was held back, and all that follows."""
        self._flowing.set()

    def hang_up(self) -> None:
        """End every connection; new ones are served."""
        for end in tuple(self._sockets):
            _hang_up(end)

    def lose_reply(self, number: int) -> None:
        """Pass on ``number - 1`` further pieces of what the server answers; lose the next and hang up on both."""
        with self._lock:
            self._replies_left = number

    def strand(self, words: bytes) -> None:
        """Hold back the next piece from a client that contains ``words`` and hang up on that client, as a network does
        that lost its way; ``deliver`` sends it on. What comes on other connections is passed on meanwhile."""
        self._late = words

    def deliver(self) -> None:
        """Let the server have what was stranded; returns when it has answered."""
        assert self.stranded.wait(10), "nothing was stranded"
        self._delivering.set()
        assert self.answered.wait(10), "the server has not answered"

    def _run(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # pyright: ignore
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._upstream))
                except ConnectionRefusedError:  # the server is down
                    client.close()
                    continue
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets += [client, server]
                self.accepted += 1
                self._run(self._pump, client, server, False)
                self._run(self._pump, server, client, True)

    def _pump(self, source: socket.socket, target: socket.socket, replies: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self._flowing.is_set():
                    self.held.set()
                    self._flowing.wait()
                if replies and source in self._late_ends:
                    self.answered.set()
                    break
                if not replies and self._is_late(data, target):
                    self._deliver_late(data, source, target)
                    return
                if self._closed or (replies and self._is_lost()):
                    break
                target.sendall(data)
        _hang_up(target)
        _hang_up(source)

    def _is_late(self, data: bytes, server: socket.socket) -> bool:
        with self._lock:
            if self._late is None or self._late not in data:
                return False
            self._late = None
            self._late_ends.append(server)
            return True

    def _deliver_late(self, data: bytes, client: socket.socket, server: socket.socket) -> None:
        _hang_up(client)
        self.stranded.set()
        self._delivering.wait()
        server.sendall(data)
        server.shutdown(socket.SHUT_WR)

    def _is_lost(self) -> bool:
        with self._lock:
            if self._replies_left is None:
                return False
            self._replies_left -= 1
            if self._replies_left:
                return False
            self._replies_left = None
            self.lost.set()
            return True


def _hang_up(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
