"""``redis+sentinel://`` addresses: the Sentinels are asked which Redis is the primary, at every new connection.

After a fail-over the connections to the old primary break, or it answers READONLY; either way a new one is dialled, and
meets the new primary. Called by ``Dialer``.
"""

from __future__ import annotations

from typing import NamedTuple, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.sentinel import Sentinel

from kapstan.errors import ConfigurationError

_DEFAULT_PORT = 26379
_FORM = "redis+sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT/SERVICE[/DB]"
_SECONDS = 2.0  # for each Sentinel to answer; the next one is asked then


class SentinelAddress(NamedTuple):
    """What a ``redis+sentinel://`` address says.

    ``server`` is the address of the Redis, with a host to be replaced by the primary's. User, password and ``rediss+``
    (TLS) are meant for it; those of the Sentinels are ``?sentinel_username=`` and ``?sentinel_password=``.
    """

    sentinels: list[tuple[str, int]]
    service: str
    server: str
    username: str | None
    password: str | None

    @classmethod
    def parse(cls, url: str) -> SentinelAddress | None:
        """None for an address of another kind.

        Raises:
            ConfigurationError: no host, no service, or a port that is none.
        """
        scheme, plus, _ = url.partition("+sentinel://")
        if not plus:
            return None
        parts = urlsplit(url)
        user, _, hosts = parts.netloc.rpartition("@")
        service, _, db = parts.path.strip("/").partition("/")
        sentinels = [_host_and_port(each) for each in hosts.split(",") if each]
        if not sentinels or not service or (db and not db.isdigit()):
            raise ConfigurationError(f"KAPSTAN_REDIS_URL: give {_FORM}")
        options = dict(parse_qsl(parts.query))
        username, password = options.pop("sentinel_username", None), options.pop("sentinel_password", None)
        query = f"?{urlencode(options)}" if options else ""
        server = f"{scheme}://{user + '@' if user else ''}primary/{db or '0'}{query}"
        return cls(sentinels, unquote(service), server, username, password)

    def primary(self) -> tuple[str, int]:
        """Host and port of the primary, as the first Sentinel that answers knows it.

        Raises:
            redis.ConnectionError: no Sentinel answers, or none knows a primary that is up.
        """
        given = {"username": self.username, "password": self.password}
        options = {name: value for name, value in given.items() if value}
        asked = Sentinel(
            self.sentinels,
            sentinel_kwargs={"socket_timeout": _SECONDS, "socket_connect_timeout": _SECONDS, **options},
        )
        try:
            host, port = cast("tuple[str, int]", asked.discover_master(self.service))  # pyright: ignore
            return host, port
        finally:
            for each in asked.sentinels:
                each.close()


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        return text.strip("[]"), _DEFAULT_PORT
    if not port.isdigit() or not host:
        raise ConfigurationError(f"KAPSTAN_REDIS_URL: {text!r} is no HOST:PORT; give {_FORM}")
    return host.strip("[]"), int(port)
