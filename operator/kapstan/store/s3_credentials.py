"""What signs requests to an S3 store: keys of the settings, or keys that are given for a while and renewed.

``Wire`` asks for the keys at every request. How keys are got is the ``minio`` package's part (its providers know the
protocols of AWS); when they are got, what a refusal is called and what stands in a message is decided here. A provider
of its own would put the whole address, token included, into its exception.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import urllib3
from minio.credentials.credentials import Credentials
from minio.credentials.providers import EnvAWSProvider, IamAwsProvider, Provider
from urllib3.exceptions import HTTPError

from kapstan.errors import ConfigurationError, StoreRefused, StoreUnavailable
from kapstan.settings import Settings

log = logging.getLogger("kapstan.store")

TOKEN_FILE, ROLE, STS_ENDPOINT = "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_ENDPOINT_URL_STS"
_KEY, _SECRET = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
_CONTAINER = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
_AHEAD = 0.25
"""The part of their life that keys have left when new ones are asked for."""
_PAUSE = timedelta(seconds=5)
"""Between two requests for new keys while the old ones still sign."""
_SECONDS = 5.0
_CODE = re.compile(r"<Code>([^<]*)</Code>|\"[Cc]ode\"\s*:\s*\"([^\"]*)\"")


class Source(Protocol):
    """Where keys come from."""

    def current(self) -> Credentials:
        """The keys to sign with now.

        Raises:
            StoreRefused: whoever gives them refuses; asking again cannot help.
            StoreUnavailable: they cannot be had now, and there are none that are still good.
        """
        ...

    def refused(self, credentials: Credentials) -> bool:
        """The store does not take these. Whether it is worth trying again."""
        ...


class Fixed:
    """The same keys for ever."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def current(self) -> Credentials:
        return self._credentials

    def refused(self, credentials: Credentials) -> bool:  # noqa: ARG002
        return False


class Renewed:
    """Keys that end, got anew before they do. Safe for several threads: one asks, the others wait.

    Args:
        fetch: gets new keys. Raises StoreRefused or StoreUnavailable.
    """

    def __init__(
        self, fetch: Callable[[], Credentials], now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._fetch = fetch
        self._now = now
        self._lock = threading.Lock()
        self._credentials: Credentials | None = None
        self._ask_at: datetime | None = None
        self._refused_at: datetime | None = None

    def current(self) -> Credentials:
        with self._lock:
            now = self._now()
            held = self._credentials
            if held is not None and (self._ask_at is None or now < self._ask_at):
                return held
            try:
                made = self._fetch()
            except (StoreRefused, StoreUnavailable) as error:
                end = _end(held)
                if held is None or end is None or now >= end:
                    raise
                self._ask_at = now + _PAUSE
                log.warning("no new keys for the store (%s); the present ones sign until %s", error, end.isoformat())
                return held
            end = _end(made)
            self._credentials = made
            self._ask_at = None if end is None else max(now, end - _AHEAD * (end - now))
            return made

    def refused(self, credentials: Credentials) -> bool:
        with self._lock:
            if self._credentials is not credentials:
                return True  # somebody else has had new ones since
            now = self._now()
            if self._refused_at is not None and now < self._refused_at + _PAUSE:
                return False  # new ones were refused as well
            self._credentials, self._refused_at = None, now
            return True


def of(settings: Settings) -> Source:
    """Where these settings say that keys come from; nothing is asked yet.

    Raises:
        ConfigurationError: a key is missing, or keys are given although others are asked for.
    """
    key, secret = settings.s3_access_key, settings.s3_secret_key
    if settings.s3_credentials == "keys":
        if not key or not secret:
            raise ConfigurationError(
                "KAPSTAN_S3_ENDPOINT needs KAPSTAN_S3_ACCESS_KEY and KAPSTAN_S3_SECRET_KEY, or "
                "KAPSTAN_S3_CREDENTIALS=aws where the platform gives an identity"
            )
        return Fixed(Credentials(key, secret))
    if key or secret:
        raise ConfigurationError(
            "KAPSTAN_S3_CREDENTIALS=aws takes no keys of its own: unset KAPSTAN_S3_ACCESS_KEY and KAPSTAN_S3_SECRET_KEY"
        )
    if os.environ.get(_KEY) or os.environ.get(_SECRET):
        missing = next((name for name in (_KEY, _SECRET) if not os.environ.get(name)), None)
        if missing:
            raise ConfigurationError(f"{missing} is not set, and the other one of {_KEY} and {_SECRET} is: set both")
        return Fixed(EnvAWSProvider().retrieve())
    if bool(os.environ.get(ROLE)) and not os.environ.get(TOKEN_FILE) and not any(map(os.environ.get, _CONTAINER)):
        raise ConfigurationError(f"{ROLE} is set and {TOKEN_FILE} is not: is the pod's ServiceAccount annotated?")
    return Renewed(lambda: _asked(settings))


def _asked(settings: Settings) -> Credentials:
    """New keys from the STS, from the container's service or from the machine's metadata, in this order."""
    sts = os.environ.get(STS_ENDPOINT) if os.environ.get(TOKEN_FILE) else None
    who = f"the STS at {sts or 'AWS'}" if os.environ.get(TOKEN_FILE) else "the service that gives this machine its keys"
    client = _Answers(who, ca_file=settings.s3_ca_file if sts else "")
    try:
        provider: Provider = IamAwsProvider(custom_endpoint=sts, http_client=client, region=settings.s3_region)
        return provider.retrieve()
    except OSError as error:
        raise StoreRefused(f"a token cannot be read: {error}") from None
    except (ValueError, KeyError, TypeError, SyntaxError) as error:
        raise StoreRefused(_without_token(f"{who} gave no keys: {_unreadable_file() or error}")) from None
    finally:
        client.clear()


def _unreadable_file() -> str:
    path = os.environ.get(TOKEN_FILE, "")
    return f"{TOKEN_FILE}={path} cannot be read" if path and not os.access(path, os.R_OK) else ""


def _without_token(text: str) -> str:
    return re.sub(r"\?\S*", "?...", text)


class _Answers(urllib3.PoolManager):
    """Requests for keys, sent once. What goes wrong is told by its name, without the address, which holds the token."""

    def __init__(self, who: str, *, ca_file: str) -> None:
        super().__init__(retries=False, timeout=_SECONDS, ca_certs=ca_file or None)
        self._who = who

    def urlopen(self, method: str, url: str, redirect: bool = True, **words: Any) -> urllib3.BaseHTTPResponse:
        try:
            answer = super().urlopen(method, url, redirect, **words)
        except HTTPError as error:
            raise StoreUnavailable(f"{self._who} does not answer: {type(error).__name__}") from None
        if answer.status in (200, 204, 206):
            return answer
        found = _CODE.search(answer.data[:4096].decode("utf-8", "replace"))
        code = next(filter(None, found.groups()), "") if found else ""
        answered = f"{self._who} answers {answer.status} {code}".rstrip()
        if answer.status >= 500 or answer.status in (408, 429):
            raise StoreUnavailable(answered)
        raise StoreRefused(f"{answered}: is the role ({ROLE}) right, and does it trust this ServiceAccount or machine?")


def _end(credentials: Credentials | None) -> datetime | None:
    if credentials is None or credentials.expiration is None:
        return None
    return credentials.expiration.replace(tzinfo=UTC)
