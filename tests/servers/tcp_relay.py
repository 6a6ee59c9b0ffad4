"""A TCP relay in front of a real server that falls silent, or loses a reply, when a test says so.

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

    def __enter__(self) -> TcpRelay:
        self._run(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._flowing.set()
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

    def _run(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # pyright: ignore
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._upstream))
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
                if self._closed or (replies and self._is_lost()):
                    break
                target.sendall(data)
        _hang_up(target)
        _hang_up(source)

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
