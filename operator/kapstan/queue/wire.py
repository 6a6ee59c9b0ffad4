"""Connections to Redis for the hot path, and what error replies stand for.

redis-py makes the connection (URL, TLS, ACL, handshake). From then on hiredis packs the commands and a hiredis reader
of our own reads the replies, because a waiting thread must watch the socket and a wake-up at once and needs to know
whether bytes are left in the reader. Called by the adapter's other modules; knows no script's meaning.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
import weakref
from collections import deque
from typing import Any

import hiredis

from kapstan.errors import BackendError, ConfigurationError, QueueFull
from kapstan.queue.packing import packed
from kapstan.queue.server_clock import ServerClock

_NOTHING = object()
PATIENCE = 15  # seconds until an unanswered command counts as a broken connection
# Refusals that pass: of a server that starts, is busy, was demoted or takes no writes now. Nothing was carried out.
_PASSING = frozenset(
    "LOADING BUSY UNKILLABLE READONLY MASTERDOWN NOREPLICAS NOGOODSLAVE MISCONF CLUSTERDOWN TRYAGAIN".split()
)


_IN_A_SCRIPT = ("The user executing the script can't", "ACL failure in script")


class ConnectionLost(Exception):
    """The connection broke, or this server cannot answer now; whether the last command was carried out is unknown."""


class Refused(ConnectionLost):
    """The server answers, and takes no such command for now. Another connection may meet another server, or the same
    one when it has recovered."""


class Wire:
    """One connection that speaks RESP3. One thread reads; several may send.

    ``pushes`` collects messages of subscriptions that came while a reply was awaited; ``clock`` is the server's.
    """

    def __init__(self, connection: Any) -> None:
        connection.connect()
        self._connection = connection
        self._socket: socket.socket = connection._sock
        self._secure = hasattr(self._socket, "pending")
        self._be_patient()
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._buffer = bytearray(65536)
        self._sending = threading.Lock()
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self.pushes: deque[list[Any]] = deque()
        self.clock = ServerClock()
        self.start = ""  # run_id of the server, once it was asked
        self.synced_by: Any = None  # see ``synced``
        _wires.add(self)

    def _be_patient(self) -> None:
        """Set the time limit of a read or a write; by the kernel where that can be, since Python's own polls first."""
        if self._secure:  # TLS would read on for ever
            self._socket.settimeout(PATIENCE)
            return
        self._socket.settimeout(None)
        for limit in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, limit, struct.pack("@ll", PATIENCE, 0))

    def send(self, packed: bytes) -> None:
        try:
            with self._sending:
                self._socket.sendall(packed)
        except OSError as error:
            raise _lost(error) from None

    def read(self) -> Any:
        """The reply to the oldest command that has none yet.

        Raises:
            ConnectionLost: see there.
            BackendError: the server refused the command.
        """
        reader = self._reader
        while True:
            reply = reader.gets()
            if reply is _NOTHING:
                self._fill()
            elif type(reply) is hiredis.PushNotification:
                self.pushes.append(reply)
            elif type(reply) is hiredis.ReplyError:
                raise refusal(str(reply))
            else:
                return reply

    def call(self, packed: bytes) -> Any:
        self.send(packed)
        return self.read()

    def receive(self, timeout: float | None, wake: Wake) -> Any:
        """The next push or reply; None after ``timeout`` seconds or when ``wake`` was rung."""
        item = self._reader.gets()
        deadline = None if timeout is None else time.monotonic() + timeout
        while item is _NOTHING:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._readable(left, wake):
                return None
            self._fill()
            item = self._reader.gets()
        return item

    def parsed(self) -> Any:
        """The next push or reply that needs no further reading from the socket, or None."""
        item = self._reader.gets()
        return None if item is _NOTHING else item

    def _readable(self, timeout: float | None, wake: Wake) -> bool:
        if self._secure and self._socket.pending():  # pyright: ignore  # SSLSocket only
            return True
        self._poll.register(wake.reader, select.POLLIN)
        ready = self._poll.poll(None if timeout is None else timeout * 1000)
        if any(descriptor == wake.reader for descriptor, _ in ready):
            wake.clear()
            return False
        return bool(ready)

    def _fill(self) -> None:
        try:
            size = self._socket.recv_into(self._buffer)
        except OSError as error:
            raise _lost(error) from None
        if size == 0:
            raise ConnectionLost("the server closed the connection")
        self._reader.feed(self._buffer, 0, size)  # pyright: ignore[reportArgumentType]  (any buffer will do)

    def close(self) -> None:
        _wires.discard(self)
        self._connection.disconnect()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's connection without a word to the server."""
        self._socket.close()


def _lost(error: OSError) -> ConnectionLost:
    if isinstance(error, (BlockingIOError, TimeoutError)):
        return ConnectionLost(f"no answer within {PATIENCE} s")
    return ConnectionLost(str(error) or type(error).__name__)


class Wake:
    """Ends a blocking read from another thread or a signal handler; what is rung while nobody reads is not lost."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self._writer, False)

    def ring(self) -> None:
        try:
            os.write(self._writer, b"!")
        except (BlockingIOError, OSError):  # full: it is rung already; closed: nobody waits
            return

    def clear(self) -> bool:
        """Forget that it was rung; whether it was."""
        try:
            return bool(os.read(self.reader, 4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        if self.reader >= 0:
            os.close(self.reader)
            os.close(self._writer)
            self.reader = self._writer = -1


_wires: weakref.WeakSet[Wire] = weakref.WeakSet()


def _abandon_all() -> None:
    for wire in list(_wires):
        wire.abandon()
    _wires.clear()


os.register_at_fork(after_in_child=_abandon_all)


def refusal(message: str) -> Exception:
    """The exception that an error reply stands for."""
    word = message.split(" ", 1)[0]
    if word == "NOSCRIPT":
        return ConnectionLost(message)  # dialling loads the scripts
    if word in _PASSING:
        return Refused(message)
    if word == "OOM":
        return QueueFull(f"Redis is full ({message}): nothing was accepted; raise maxmemory, or let workers catch up")
    if word in ("NOAUTH", "NOPERM", "WRONGPASS") or any(part in message for part in _IN_A_SCRIPT):
        return ConfigurationError(f"Redis refuses this user: {message}; see KAPSTAN_REDIS_URL and the ACL in the docs")
    return BackendError(f"Redis refused a command: {message}")


def pack(*command: str | bytes | int) -> bytes:
    """A plain command as it goes over the wire."""
    return packed(command)
