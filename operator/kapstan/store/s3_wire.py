"""One signed request to an S3 store, and what its answer means. Called by ``s3`` only; knows no keys of Kapstan.

The ``minio`` package would send ``put_object(metadata={"If-None-Match": "*"})`` as ``x-amz-meta-if-none-match`` and
overwrite silently, and its pool resends by itself, which turns a lost reply into a 412 on one's own object. Therefore
every request goes through ``Wire.send``: minio's signer over *all* headers that matter, the condition included, on
urllib3 with its retries off. What is worth repeating is decided here, repeated in ``Wire.until_known``.
"""

from __future__ import annotations

import hashlib
import logging
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar, cast
from urllib.parse import SplitResult, quote, urlsplit

import urllib3
from minio.credentials.credentials import Credentials
from minio.signer import sign_v4_s3
from minio.time import to_amz_date
from urllib3.exceptions import HTTPError, SSLError

from kapstan.errors import ConfigurationError, StoreRefused, StoreUnavailable
from kapstan.store.s3_credentials import Source

T = TypeVar("T")
log = logging.getLogger("kapstan.store")

# Whether the request took effect is not known after these: 409 is a race on AWS, 499 is MinIO shutting down.
_UNKNOWN = frozenset({408, 409, 429, 499})
_UNKNOWN_CODES = frozenset({"RequestTimeout", "SlowDown"})  # of status 400 and others
# Said of keys whose time is over; MinIO forgets them and no longer knows that they ever were.
_OVER = frozenset({"ExpiredToken", "InvalidToken", "InvalidTokenId", "TokenRefreshRequired", "InvalidAccessKeyId"})
_NEVER = frozenset({501, 505})  # what is asked for does not exist there, and repeating does not make it
PRECONDITION_FAILED, NO_SUCH_KEY = "PreconditionFailed", "NoSuchKey"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.5
_REPLY_SECONDS, _CONNECT_SECONDS, _BYTES_PER_SECOND = 5.0, 3.0, 1024 * 1024
_WORTH_TELLING = 1.0  # seconds without an answer after which the log says so

_FIXES = {
    "SignatureDoesNotMatch": "the signature was refused: the secret key is wrong (KAPSTAN_S3_SECRET_KEY), or a proxy "
    "in between may change headers",
    "UnsignedHeaders": "the signature was refused: a proxy in between may change headers",
    "AccessDenied": "the key of KAPSTAN_S3_ACCESS_KEY lacks the right, or a proxy in between may change headers",
    "ExpiredToken": "the keys' time is over",
    "InvalidAccessKeyId": "the store does not know the key of KAPSTAN_S3_ACCESS_KEY",
    "NoSuchBucket": "create the bucket, or name another one in KAPSTAN_S3_BUCKET",
    "InvalidBucketName": "bucket names have 3 to 63 lower-case letters, digits and dashes; see KAPSTAN_S3_BUCKET",
    "RequestTimeTooSkewed": "the clocks of this machine and of the store differ by more than 15 minutes",
    "NotImplemented": "this store has no conditional writes; use MinIO or another S3 that has",
    "PermanentRedirect": "the bucket is elsewhere: check KAPSTAN_S3_ENDPOINT and KAPSTAN_S3_REGION",
    "TemporaryRedirect": "the bucket is elsewhere: check KAPSTAN_S3_ENDPOINT and KAPSTAN_S3_REGION",
    "AuthorizationHeaderMalformed": "check KAPSTAN_S3_REGION",
}


class Reply(NamedTuple):
    """An answer that settles the request. ``code`` is S3's word for an error, "" for a success and for nothing else."""

    status: int
    body: bytes
    etag: str
    """Exactly as received, quotes included."""
    code: str
    date: str = ""
    """When it was given, by the store's clock."""
    size: int = 0
    """Bytes of the whole object, of which ``body`` may be a part."""


class Unknown(Exception):
    """The request may or may not have taken effect; sending the same bytes again is right. Stays in this folder."""


class Wire:
    """A connection pool to one endpoint, and the credentials that sign. Safe for several threads.

    Args:
        deadline: seconds for which ``until_known`` repeats.

    Raises:
        ConfigurationError: the endpoint is no http(s) URL.
    """

    def __init__(
        self, endpoint: str, *, credentials: Source, region: str, ca_file: str = "", deadline: float = 60.0
    ) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ConfigurationError(f"KAPSTAN_S3_ENDPOINT={endpoint!r}: give http://host:port or https://host:port")
        self.endpoint = f"{parts.scheme}://{parts.netloc}"
        self._credentials = credentials
        self._region = region
        self._deadline = deadline
        self._closing = threading.Event()
        self._silent_since: float | None = None
        self._outage_logged = False
        tls = {"cert_reqs": "CERT_REQUIRED", "ca_certs": ca_file or None} if parts.scheme == "https" else {}
        self._pool = urllib3.connection_from_url(self.endpoint, maxsize=32, retries=False, **tls)

    def send(
        self,
        method: str,
        path: str,
        *,
        body: bytes | bytearray = b"",
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        accept: tuple[str, ...] = (),
    ) -> Reply:
        """One request, sent once. ``path`` begins with ``/bucket``; ``headers`` are in lower case and are signed.

        Returns the success of an S3 store, and the error codes in ``accept``; the rest raises.

        Raises:
            Unknown: no answer, or one that says nothing.
            StoreRefused: see ``_refusal``.
        """
        url = urlsplit(
            self.endpoint
            + quote(path, safe="/~")
            + ("?" + "&".join(f"{k}={quote(v, safe='~')}" for k, v in sorted(query.items())) if query else "")
        )
        keys = self._keys()
        signed = self._signed(method, url, body, headers or {}, keys)
        extra = len(body) / _BYTES_PER_SECOND  # a socket's timeout holds for the whole of the body, not for each piece
        timeout = urllib3.Timeout(connect=_CONNECT_SECONDS + extra, read=_REPLY_SECONDS + extra)
        try:
            target = f"{url.path}?{url.query}" if url.query else url.path
            answer = self._pool.urlopen(
                method,
                target,
                body=cast("bytes", body),
                headers=signed,
                redirect=False,
                retries=False,
                timeout=timeout,
            )
        except SSLError as error:
            raise self._bad_certificate(error) from error
        except HTTPError as error:
            raise Unknown(f"{type(error).__name__}: {error}") from error
        if answer.status in (400, 403) and error_of(answer.data)[0] in _OVER and self._credentials.refused(keys):
            raise Unknown("the store says that the keys' time is over; asking for new ones")
        return self._judge(f"{method} {path}", answer, accept)

    def _signed(
        self, method: str, url: SplitResult, body: bytes | bytearray, headers: Mapping[str, str], keys: Credentials
    ) -> dict[str, str]:
        """``headers`` and those of the signature."""
        now = datetime.now(UTC)
        content = hashlib.sha256(body).hexdigest()
        token = {"x-amz-security-token": keys.session_token} if keys.session_token else {}
        signed = sign_v4_s3(
            method=method,
            url=url,
            region=self._region,
            headers={
                "host": url.netloc,
                "x-amz-date": to_amz_date(now),
                "x-amz-content-sha256": content,
                **token,
                **headers,
            },
            credentials=keys,
            content_sha256=content,
            date=now,
        )
        return cast("dict[str, str]", signed)

    def _keys(self) -> Credentials:
        try:
            return self._credentials.current()
        except StoreUnavailable as away:
            raise Unknown(f"no keys to sign with: {away}") from away

    def _judge(self, what: str, answer: urllib3.BaseHTTPResponse, accept: tuple[str, ...]) -> Reply:
        """By the status first: a proxy on the way answers in words of its own, or in none."""
        status, body, etag = answer.status, answer.data, answer.headers.get("etag", "")
        if status in (200, 204, 206):
            whole = answer.headers.get("content-range", "").rpartition("/")[2]
            size = int(whole) if whole.isdecimal() else 0 if status == 206 else len(body)
            return Reply(status, body, etag, "", answer.headers.get("date", ""), size)
        code, message = error_of(body)
        if status == 412:
            code = PRECONDITION_FAILED
        if code and code in accept:
            return Reply(status, body, etag, code)
        if status in _UNKNOWN or code in _UNKNOWN_CODES or (status >= 500 and status not in _NEVER):
            raise Unknown(f"{status} {code or 'without a reason'}")
        if status < 300 or (status == 404 and not code):
            raise Unknown(f"{status} that is no answer of an S3 store; what is in front of it?")
        # MinIO's word for a signed header that is missing is AccessDenied, too; only its message tells.
        fix = _FIXES.get("UnsignedHeaders" if "not signed" in message else code)
        raise StoreRefused(
            f"{self.endpoint} refused {what}: {status} {code or 'without a code'}"
            f"{f' ({message})' if message else ''}{f'. {fix}' if fix else ''}"
        )

    def _bad_certificate(self, error: SSLError) -> Exception:
        reason = error.args[0] if error.args else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            return StoreRefused(
                f"the certificate of {self.endpoint} is not trusted ({reason.verify_message}): name the PEM file of "
                "its authority in KAPSTAN_S3_CA_FILE"
            )
        if "WRONG_VERSION_NUMBER" in str(reason):
            return StoreRefused(f"{self.endpoint} does not speak TLS: is it http:// in KAPSTAN_S3_ENDPOINT?")
        return Unknown(f"TLS: {reason}")

    def until_known(self, what: str, attempt: Callable[[], T]) -> T:
        """What ``attempt`` returns, called again with growing pauses for as long as it raises ``Unknown``.

        Raises:
            StoreUnavailable: the deadline passed, or ``close`` was called.
        """
        end = time.monotonic() + self._deadline
        pause = _FIRST_PAUSE
        while True:
            try:
                known = attempt()
            except Unknown as unknown:
                self._no_answer(what, unknown)
                if time.monotonic() + pause > end or self._closing.wait(pause):
                    raise StoreUnavailable(
                        f"{self.endpoint} gave no answer to {what} for {self._deadline:g} s "
                        f"(KAPSTAN_STORE_DEADLINE_SECONDS); last: {unknown}"
                    ) from unknown
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._answered()
                return known

    def _no_answer(self, what: str, unknown: Unknown) -> None:
        """One log line when the store goes away; threads may race for it, at worst it stands there twice."""
        now = time.monotonic()
        self._silent_since = since = self._silent_since or now
        if not self._outage_logged and now - since >= _WORTH_TELLING:
            self._outage_logged = True
            log.warning("%s gives no answer to %s (%s); trying again", self.endpoint, what, unknown)

    def _answered(self) -> None:
        since, self._silent_since = self._silent_since, None
        if self._outage_logged and since is not None:
            self._outage_logged = False
            log.warning("%s answers again after %.1f s", self.endpoint, time.monotonic() - since)

    def close(self) -> None:
        """End pauses and idle connections."""
        self._closing.set()
        self._pool.close()


def error_of(body: bytes) -> tuple[str, str]:
    """(code, message) of an S3 error document, "" where it has none."""
    text = body[:4096].decode("utf-8", "replace")
    found = [re.search(rf"<{tag}>([^<]*)</{tag}>", text) for tag in ("Code", "Message")]
    code, message = (match[1] if match else "" for match in found)
    return code, message
