"""``ports.Store`` on S3: MinIO, or any S3 with conditional writes. Made by ``backend``; knows nothing of what it
stores.

Every key stands below ``<namespace>/`` in the bucket. A write whose reply was lost is sent again with the same bytes,
and the 412 that one's own object then causes is recognised by reading it back (``create``, ``replace``).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import re
import time
from collections.abc import Generator, Iterator, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime

from kapstan.errors import StoreRefused, StoreUnsafe
from kapstan.ids import new_nonce
from kapstan.piecewise import Pieces
from kapstan.ports import Listed, ListedLog, Stored
from kapstan.settings import Settings
from kapstan.store import s3_credentials
from kapstan.store.keys import check_key
from kapstan.store.probe import probe, probe_when_due
from kapstan.store.s3_parts import PART_BYTES, PartsDown, PartsUp
from kapstan.store.s3_wire import NO_SUCH_KEY, PRECONDITION_FAILED, Reply, Unknown, Wire
from kapstan.store.segments import SegmentLog, listed_logs

_PAGE = 1000  # the most that a LIST answers and that a bulk delete takes
_TRANSIENT = frozenset({"InternalError", "SlowDown", "ServiceUnavailable", "RequestTimeout"})  # of one object of many


class S3Store:
    """Objects below one prefix of a bucket, that of a namespace; see ``ports.Store`` for the methods."""

    def __init__(self, wire: Wire, bucket: str, prefix: str, *, region: str = "us-east-1") -> None:
        self._wire = wire
        self._bucket = f"/{bucket}"
        self._prefix = f"{check_key(prefix)}/" if prefix else ""
        self._region = region
        self._parts_hold = False

    @classmethod
    def from_settings(cls, settings: Settings) -> S3Store:
        """The store of these settings; nothing is sent yet.

        Raises:
            ConfigurationError: the endpoint is no http(s) URL, or a credential is missing.
        """
        return cls.at(settings.s3_bucket, settings.namespace, settings)

    @classmethod
    def at(cls, bucket: str, prefix: str, settings: Settings) -> S3Store:
        """As ``from_settings``, at another place of the same endpoint: a result storage."""
        wire = Wire(
            settings.s3_endpoint,
            credentials=s3_credentials.of(settings),
            region=settings.s3_region,
            ca_file=settings.s3_ca_file,
            deadline=settings.store_deadline_seconds,
        )
        return cls(wire, bucket, prefix, region=settings.s3_region)

    def get(self, key: str) -> Stored | None:
        return self._wire.until_known(f"GET {key}", lambda: self._get(key))

    def _get(self, key: str) -> Stored | None:
        reply = self._wire.send("GET", self._path(key), accept=(NO_SUCH_KEY,))
        return None if reply.code else Stored(reply.body, _etag(reply))

    def put(self, key: str, body: bytes) -> None:
        self._wire.until_known(f"PUT {key}", lambda: _etag(self._wire.send("PUT", self._path(key), body=body)))

    @contextlib.contextmanager
    def upload(self, key: str) -> Generator[PartsUp]:
        parts = PartsUp(self._wire, self._path(key))
        try:
            yield parts
            parts.end()
        except BaseException:
            parts.abort()
            raise

    @contextlib.contextmanager
    def upload_if(self, key: str, version: str) -> Generator[PartsUp]:
        condition = {"if-match": version} if version else {"if-none-match": "*"}
        parts = PartsUp(self._wire, self._path(key), condition, self._check_parts)
        try:
            yield parts
            parts.end()
        finally:
            if not parts.is_there:
                parts.abort()

    def _check_parts(self) -> None:
        """See, once, that an upload in parts keeps its condition: not every store that has conditions has them there.

        Raises:
            StoreUnsafe: it does not.
        """
        if self._parts_hold:
            return
        key = f"probe/{new_nonce()}"
        self.put(key, b"there before")
        parts = PartsUp(self._wire, self._path(key), {"if-none-match": "*"})
        try:
            parts.write(b"in parts")
            parts.end(in_parts=True)
        finally:
            if not parts.is_there:
                parts.abort()
            with contextlib.suppress(StoreRefused):  # credentials without the right to delete are good ones
                self.delete([key])
        if parts.is_there:
            raise StoreUnsafe(
                f"{self._wire.endpoint} forgets the condition (If-None-Match) of an upload in parts: what has more "
                f"than {PART_BYTES >> 20} MiB cannot be written only where nothing stands. Use MinIO or another S3 "
                "that keeps it, a folder, or what replaces (ResultStore.write, overwrite=True)"
            )
        self._parts_hold = True

    @contextlib.contextmanager
    def download(self, key: str) -> Generator[Pieces | None]:
        parts = PartsDown(self._wire, self._path(key))
        yield Pieces(parts.more) if parts.exists else None

    def create(self, key: str, body: bytes) -> bool:
        return self.create_version(key, body) is not None

    def create_version(self, key: str, body: bytes) -> str | None:
        def attempt() -> str | None:
            headers = {"if-none-match": "*"}
            reply = self._wire.send("PUT", self._path(key), body=body, headers=headers, accept=(PRECONDITION_FAILED,))
            if not reply.code:
                return _etag(reply)
            there = self._get(key)
            if there is None:
                raise Unknown("412, and then there was no object")
            return there.version if there.body == body else None

        return self._wire.until_known(f"create {key}", attempt)

    def replace(self, key: str, body: bytes, version: str) -> str | None:
        def attempt() -> str | None:
            missed = (PRECONDITION_FAILED, NO_SUCH_KEY)
            headers = {"if-match": version}
            reply = self._wire.send("PUT", self._path(key), body=body, headers=headers, accept=missed)
            if not reply.code:
                return _etag(reply)
            there = self._get(key)
            return there.version if there is not None and there.body == body else None

        return self._wire.until_known(f"replace {key}", attempt)

    def keys(self, prefix: str, after: str = "") -> Iterator[str]:
        for page in self._pages(prefix, after):
            yield from (_key_of(entry, self._prefix) for entry in page)

    def listed(self, prefix: str) -> Iterator[Listed]:
        for page in self._pages(prefix):
            for entry in page:
                modified = datetime.fromisoformat(_field(entry, "LastModified")).timestamp()
                yield Listed(_key_of(entry, self._prefix), int(_field(entry, "Size")), modified)

    def logs(self, prefix: str) -> Iterator[ListedLog]:
        return listed_logs(self.listed(prefix), prefix)

    def now(self) -> float:
        def attempt() -> float:
            query = {"list-type": "2", "max-keys": "1", "prefix": self._prefix}
            reply = _document(self._wire.send("GET", self._bucket, query=query), "ListBucketResult")
            try:
                return parsedate_to_datetime(reply.date).timestamp()
            except ValueError:
                raise Unknown(f"an answer without a Date: {reply.date!r}; what is in front of the store?") from None

        return self._wire.until_known("what time it is", attempt)

    def _pages(self, prefix: str, after: str = "") -> Iterator[list[str]]:
        """The entries below ``prefix`` as the store writes them, by pages."""
        query = {"list-type": "2", "max-keys": str(_PAGE), "prefix": self._prefix + prefix}
        if after:
            query["start-after"] = self._prefix + after
        while True:
            reply = self._wire.until_known(
                f"LIST {prefix}",
                lambda: _document(self._wire.send("GET", self._bucket, query=query), "ListBucketResult"),
            )
            page = reply.body.decode("utf-8", "replace")
            found = re.findall(r"<Contents>(.*?)</Contents>", page, re.DOTALL)
            yield found
            if "<IsTruncated>true</IsTruncated>" not in page:
                return
            query["start-after"] = html.unescape(_field(found[-1], "Key"))

    def delete(self, keys: Sequence[str]) -> None:
        for key, reason in self.delete_each(keys).items():
            raise StoreRefused(f"{self._wire.endpoint} refused to delete {key!r}: {reason}")

    def delete_each(self, keys: Sequence[str]) -> dict[str, str]:
        refused: dict[str, str] = {}
        for first in range(0, len(keys), _PAGE):
            page = [check_key(key) for key in keys[first : first + _PAGE]]
            refused |= self._wire.until_known(f"DELETE {page[0]}", lambda page=page: self._delete_page(page))
        return refused

    def _delete_page(self, keys: Sequence[str]) -> dict[str, str]:
        """Those that the store refused to delete, and why. A success without a list of what was deleted proves
        nothing."""
        objects = "".join(f"<Object><Key>{html.escape(self._prefix + key)}</Key></Object>" for key in keys)
        body = f"<Delete><Quiet>true</Quiet>{objects}</Delete>".encode()
        md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        headers = {"content-md5": md5}
        reply = _document(
            self._wire.send("POST", self._bucket, body=body, headers=headers, query={"delete": ""}), "DeleteResult"
        )
        refused: dict[str, str] = {}
        for error in re.findall(r"<Error>(.*?)</Error>", reply.body.decode("utf-8", "replace"), re.DOTALL):
            code, key = _field(error, "Code"), _key_of(error, self._prefix)
            if code in _TRANSIENT:
                raise Unknown(f"{code} for {key!r}")
            refused[key] = f"{code} ({html.unescape(_field(error, 'Message'))})"
        return refused

    def ensure_bucket(self) -> None:
        """Make the bucket where there is none. For development and the chart; nothing else may make buckets.

        Raises:
            StoreRefused: the credentials may not, or the name belongs to somebody else.
        """
        if not self._is_missing():
            return
        body = b""
        if self._region != "us-east-1":
            body = (
                "<CreateBucketConfiguration>"
                f"<LocationConstraint>{html.escape(self._region)}</LocationConstraint></CreateBucketConfiguration>"
            ).encode()
        self._wire.until_known(
            "make the bucket",
            lambda: self._wire.send("PUT", self._bucket, body=body, accept=("BucketAlreadyOwnedByYou",)),
        )

    def _is_missing(self) -> bool:
        reply = self._wire.until_known(
            "look for the bucket",
            lambda: self._wire.send(
                "GET", self._bucket, query={"list-type": "2", "max-keys": "1"}, accept=("NoSuchBucket",)
            ),
        )
        return reply.code == "NoSuchBucket"

    def probe(self) -> None:
        probe(self)

    def probe_when_due(self) -> bool:
        """As ``probe``, unless it passed by this endpoint a short while ago; whether it was due."""
        return probe_when_due(self, self._wire.endpoint, time.time())

    def log(self, name: str) -> SegmentLog:
        return SegmentLog(self, check_key(name))

    def close(self) -> None:
        self._wire.close()

    def _path(self, key: str) -> str:
        return f"{self._bucket}/{self._prefix}{check_key(key)}"


def _etag(reply: Reply) -> str:
    """The version that every store names with an object; a success without one came from something in front of it."""
    if not reply.etag:
        raise Unknown(f"{reply.status} without an ETag: no answer of an S3 store; what is in front of it?")
    return reply.etag


def _field(entry: str, tag: str) -> str:
    """What stands in ``tag`` of one entry of a document, as it is written there."""
    found = re.search(rf"<{tag}>([^<]*)</{tag}>", entry)
    return found[1] if found else ""


def _key_of(entry: str, prefix: str) -> str:
    return html.unescape(_field(entry, "Key"))[len(prefix) :]


def _document(reply: Reply, root: str) -> Reply:
    if f"<{root}".encode() not in reply.body:
        raise Unknown(f"{reply.status} without <{root}>: no answer of an S3 store; what is in front of it?")
    return reply
