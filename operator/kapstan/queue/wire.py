"""Connections to Redis for the hot path, and patience when Redis is away.

redis-py makes the connection (URL, TLS, ACL, handshake); from then on commands packed by hiredis are written to its
socket and read by a hiredis reader of our own, because a waiting thread must watch the socket and a wake-up at once
and needs to know whether bytes are left in the reader. Called by the adapter's
other modules; knows no script's meaning.
"""

from __future__ import annotations

import logging
import os
import random
import select
import socket
import struct
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar, cast

import hiredis
from redis.connection import ConnectionPool
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from kapstan.errors import BackendError, ConfigurationError, QueueUnavailable
from kapstan.queue import server
from kapstan.queue.scripts import SCRIPTS
from kapstan.settings import Settings

T = TypeVar("T")
_pack_command = cast("Callable[[tuple[str | bytes | int, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]
log = logging.getLogger("kapstan.queue")
_NOTHING = object()
_PATIENCE = 15  # seconds until an unanswered command counts as a broken connection
# Replies after which a new connection may find a server that can answer; NOSCRIPT: dialling loads the scripts.
_TRANSIENT = ("NOSCRIPT", "LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "UNKILLABLE")


class ConnectionLost(Exception):
    """The connection broke, or this server cannot answer now; whether the last command was carried out is unknown."""


class Wire:
    """One connection that speaks RESP3. One thread reads; several may send.

    ``pushes`` collects messages of subscriptions that came while a reply was awaited.
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
        _wires.add(self)

    def _be_patient(self) -> None:
        """Set the time limit of a read or a write; by the kernel where that can be, since Python's own polls first."""
        if self._secure:  # TLS would read on for ever
            self._socket.settimeout(_PATIENCE)
            return
        self._socket.settimeout(None)
        for limit in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, limit, struct.pack("@ll", _PATIENCE, 0))

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
        return ConnectionLost(f"no answer within {_PATIENCE} s")
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
    if word in _TRANSIENT:
        return ConnectionLost(message)
    if word == "OOM":
        return QueueUnavailable(f"Redis is full ({message}): raise maxmemory, or let workers catch up")
    if word in ("NOAUTH", "NOPERM", "WRONGPASS"):
        return ConfigurationError(f"Redis refuses this user: {message}; see KAPSTAN_REDIS_URL and the ACL in the docs")
    return BackendError(f"Redis refused a command: {message}")


class Dialer:
    """Makes wires to the Redis of some settings, with one log line when it goes away and one when it is back."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._pool: ConnectionPool | None = None
        self._lock = threading.Lock()
        self._gone_since: float | None = None

    def dial(self) -> Wire:
        """One connection, scripts loaded and server checked.

        Raises:
            ConnectionLost: nobody answers there now.
            ConfigurationError: the address, the user, the version or the memory policy cannot work.
        """
        pool = self._dialling()
        try:
            wire = Wire(pool.connection_class(**pool.connection_kwargs))
        except AuthenticationError as error:
            raise ConfigurationError(f"Redis refuses this user ({error}); see KAPSTAN_REDIS_URL") from None
        except ResponseError as error:
            raise refusal(str(error)) from None
        except RedisError as error:
            if not self.settings.redis_url:
                server.ensure(self.settings.home_path, fsync=self.settings.fsync)
            raise ConnectionLost(str(error)) from None
        try:
            self._prepare(wire)
        except BaseException:
            wire.close()
            raise
        return wire

    def _dialling(self) -> ConnectionPool:
        with self._lock:
            if self._pool is None:
                url = self.settings.redis_url or server.ensure(self.settings.home_path, fsync=self.settings.fsync)
                try:
                    self._pool = ConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
                        url, protocol=3, socket_timeout=_PATIENCE, socket_connect_timeout=5.0, **_keepalive(url)
                    )
                except ValueError as error:
                    raise ConfigurationError(f"KAPSTAN_REDIS_URL: {error}") from None
            return self._pool

    def _prepare(self, wire: Wire) -> None:
        hashes = {script.sha: script for script in SCRIPTS.values()}
        wire.send(pack("INFO", "server") + pack("INFO", "memory") + pack("SCRIPT", "EXISTS", *hashes))
        check_server(_text(wire.read()), _text(wire.read()))
        missing = [script for script, there in zip(hashes.values(), wire.read(), strict=True) if not there]
        wire.send(b"".join(pack("SCRIPT", "LOAD", script.text) for script in missing))
        for _ in missing:
            wire.read()

    def patiently(
        self, attempt: Callable[[], T], seconds: float | None, given_up: Callable[[], bool] | None = None
    ) -> T:
        """``attempt()``, repeated with backoff while it raises ``ConnectionLost``.

        Raises:
            QueueUnavailable: ``seconds`` passed (None: never), or ``given_up()``.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        pause = 0.02
        while True:
            try:
                result = attempt()
            except ConnectionLost as error:
                self._went(error)
                if given_up is not None and given_up():
                    raise QueueUnavailable(f"Redis at {self.address} does not answer: {error}") from None
                if deadline is not None and time.monotonic() + pause > deadline:
                    raise QueueUnavailable(
                        f"Redis at {self.address} did not answer for {seconds:g} s "
                        f"(KAPSTAN_REDIS_RETRY_SECONDS): {error}"
                    ) from None
                time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
                pause = min(1.0, pause * 2)
            else:
                self._came_back()
                return result

    @property
    def address(self) -> str:
        """Where Redis is, without the password."""
        if self._pool is None:
            return "the embedded server" if not self.settings.redis_url else "KAPSTAN_REDIS_URL"
        kwargs = self._pool.connection_kwargs
        return kwargs.get("path") or f"{kwargs.get('host', 'localhost')}:{kwargs.get('port', 6379)}"

    def _went(self, error: ConnectionLost) -> None:
        with self._lock:
            if self._gone_since is not None:
                return
            self._gone_since = time.monotonic()
        log.warning("Redis at %s does not answer (%s); trying again", self.address, error)

    def _came_back(self) -> None:
        with self._lock:
            since, self._gone_since = self._gone_since, None
        if since is not None:
            log.warning("Redis at %s is back after %.1f s", self.address, time.monotonic() - since)


def _keepalive(url: str) -> dict[str, Any]:
    """A peer that vanished without a word is noticed within half a minute, though an idle lane sends nothing."""
    if url.startswith("unix:"):
        return {}
    options = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
    known = {getattr(socket, name): value for name, value in options.items() if hasattr(socket, name)}
    return {"socket_keepalive": True, "socket_keepalive_options": known}


def check_server(about: str, memory: str) -> str:
    """Name and version of a server, from ``INFO server`` and ``INFO memory``.

    Raises:
        ConfigurationError: too old, or it may evict keys.
    """
    fields = dict(line.split(":", 1) for line in (about + memory).splitlines() if ":" in line)
    name = "valkey" if "valkey_version" in fields else "redis"
    version = fields.get("valkey_version") or fields.get("redis_version", "0")
    if int(version.split(".", 1)[0]) < 7:
        raise ConfigurationError(f"Redis {version} is too old: Kapstan needs Redis 7.0 or newer, or Valkey")
    policy = fields.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise ConfigurationError(
            f"Redis has maxmemory-policy {policy}: it would throw runs away when memory is short. "
            "Set `maxmemory-policy noeviction` (CONFIG SET or redis.conf)"
        )
    return f"{name} {version}"


def pack(*command: str | bytes | int) -> bytes:
    """A plain command as it goes over the wire."""
    return _pack_command(command)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
