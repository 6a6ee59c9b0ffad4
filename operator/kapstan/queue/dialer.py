"""Makes connections to the Redis of some settings, with patience while it is away or takes no writes.

Called by the adapter's other modules; knows no script's meaning.
"""

from __future__ import annotations

import logging
import random
import re
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from redis.connection import ConnectionPool
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from kapstan.errors import ConfigurationError, QueueUnavailable
from kapstan.queue import server, wire
from kapstan.queue.scripts import SCRIPTS
from kapstan.queue.sentinel import SentinelAddress
from kapstan.queue.wire import ConnectionLost, Refused, Wire, pack, refusal
from kapstan.settings import Settings

T = TypeVar("T")
log = logging.getLogger("kapstan.queue")


def connection_number(at: float | None = None) -> int:
    """The number of a lane's connection that begins at the monotonic time ``at``: now. All processes of a machine share
    that clock, so a lane's next child has greater ones."""
    return round((time.monotonic() if at is None else at) * 1000)


class Dialer:
    """Makes wires to the Redis of some settings, with one log line when it goes away and one when it is back."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._pool: ConnectionPool | None = None
        self._sentinel: SentinelAddress | None = None
        self._lock = threading.Lock()
        self._gone_since: float | None = None

    def dial(self) -> Wire:
        """One connection, scripts loaded and server checked.

        Raises:
            ConnectionLost: nobody answers there now.
            ConfigurationError: the address, the user, the version or the memory policy cannot work.
        """
        pool = self._dialling()
        options = dict(pool.connection_kwargs)
        try:
            if self._sentinel is not None:
                options["host"], options["port"] = self._sentinel.primary()
            line = Wire(pool.connection_class(**options))
        except AuthenticationError as error:
            raise ConfigurationError(f"Redis refuses this user ({error}); see KAPSTAN_REDIS_URL") from None
        except ResponseError as error:
            raise refusal(str(error)) from None
        except RedisError as error:
            if not self.settings.redis_url:
                server.ensure(self.settings.home_path, fsync=self.settings.fsync)
            raise ConnectionLost(str(error)) from None
        try:
            if self._sentinel is not None and line.call(pack("ROLE"))[0] not in (b"master", "master"):
                raise Refused("READONLY the Sentinels name a Redis that is no primary (any more)")
            self._prepare(line)
        except BaseException:
            line.close()
            raise
        return line

    def _dialling(self) -> ConnectionPool:
        with self._lock:
            if self._pool is None:
                url = self.settings.redis_url or server.ensure(self.settings.home_path, fsync=self.settings.fsync)
                self._sentinel = SentinelAddress.parse(url)
                url = self._sentinel.server if self._sentinel is not None else url
                try:
                    self._pool = ConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
                        url, protocol=3, socket_timeout=wire.PATIENCE, socket_connect_timeout=5.0, **_keepalive(url)
                    )
                except ValueError as error:
                    raise ConfigurationError(f"KAPSTAN_REDIS_URL: {error}") from None
            return self._pool

    def _prepare(self, line: Wire) -> None:
        hashes = {script.sha: script for script in SCRIPTS.values()}
        line.send(pack("INFO", "server") + pack("INFO", "memory") + pack("SCRIPT", "EXISTS", *hashes))
        about = _text(line.read())
        check_server(about, _text(line.read()))
        if time_there := re.search(r"^server_time_usec:(\d+)", about, re.MULTILINE):
            line.clock.told_time(*divmod(int(time_there[1]), 1_000_000))
        line.start = found[1] if (found := re.search(r"^run_id:(\w+)", about, re.MULTILINE)) else ""
        missing = [script for script, there in zip(hashes.values(), line.read(), strict=True) if not there]
        line.send(b"".join(pack("SCRIPT", "LOAD", script.text) for script in missing))
        try:
            for _ in missing:
                line.read()
        except ConfigurationError as error:  # a client or a reader (queue/access.py): others load them as they connect
            raise Refused(
                f"this user may not load scripts, and {len(missing)} of this release are not there: start a worker or "
                f"the operator of this release, or grant +script|load ({error})"
            ) from None

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
                refuses = isinstance(error, Refused)
                if given_up is not None and given_up():
                    word = "takes no writes now" if refuses else "does not answer"
                    raise QueueUnavailable(f"Redis at {self.address} {word}: {error}") from None
                if deadline is not None and time.monotonic() + pause > deadline:
                    word = "took no writes" if refuses else "did not answer"
                    raise QueueUnavailable(
                        f"Redis at {self.address} {word} for {seconds:g} s (KAPSTAN_REDIS_RETRY_SECONDS): {error}"
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
        if self._sentinel is not None:
            return f"{self._sentinel.service} (by Sentinel)"
        kwargs = self._pool.connection_kwargs
        return kwargs.get("path") or f"{kwargs.get('host', 'localhost')}:{kwargs.get('port', 6379)}"

    def _went(self, error: ConnectionLost) -> None:
        with self._lock:
            if self._gone_since is not None:
                return
            self._gone_since = time.monotonic()
        word = "takes no writes" if isinstance(error, Refused) else "does not answer"
        log.warning("Redis at %s %s (%s); trying again", self.address, word, error)

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
    mode = fields.get("redis_mode") or fields.get("server_mode", "standalone")
    if mode == "cluster":
        raise ConfigurationError(
            "KAPSTAN_REDIS_URL names a node of a Redis Cluster, which Kapstan does not use: a namespace is one slot, "
            "so a cluster would add nothing. Give one Redis (redis://) or one behind Sentinel (redis+sentinel://)"
        )
    if mode == "sentinel":
        raise ConfigurationError(
            "KAPSTAN_REDIS_URL names a Sentinel, not a Redis: give redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB"
        )
    if int(version.split(".", 1)[0]) < 7:
        raise ConfigurationError(f"Redis {version} is too old: Kapstan needs Redis 7.0 or newer, or Valkey")
    policy = fields.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise ConfigurationError(
            f"Redis has maxmemory-policy {policy}: it would throw runs away when memory is short. "
            "Set `maxmemory-policy noeviction` (CONFIG SET or redis.conf)"
        )
    return f"{name} {version}"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
