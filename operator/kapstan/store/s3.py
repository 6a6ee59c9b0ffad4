"""``ports.Store`` on S3: MinIO, or any S3 with conditional writes. Made by ``backend``; knows nothing of what it
stores.

Every key stands below ``<namespace>/`` in the bucket. A write whose reply was lost is sent again with the same bytes,
and the 412 that one's own object then causes is recognised by reading it back (``create``, ``replace``).
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
import time
from collections.abc import Iterator, Sequence

from kapstan.errors import StoreRefused
from kapstan.ports import Stored
from kapstan.settings import Settings
from kapstan.store.keys import check_key
from kapstan.store.probe import probe, probe_when_due
from kapstan.store.s3_wire import NO_SUCH_KEY, PRECONDITION_FAILED, Reply, Unknown, Wire, error_of
from kapstan.store.segments import SegmentLog

_PAGE = 1000  # the most that a LIST answers and that a bulk delete takes


class S3Store:
    """Objects of one namespace in a bucket; see ``ports.Store`` for the methods."""

    def __init__(self, wire: Wire, bucket: str, namespace: str, *, region: str = "us-east-1") -> None:
        self._wire = wire
        self._bucket = f"/{bucket}"
        self._prefix = f"{check_key(namespace)}/"
        self._region = region

    @classmethod
    def from_settings(cls, settings: Settings) -> S3Store:
        """The store of these settings; nothing is sent yet.

        Raises:
            ConfigurationError: the endpoint is no http(s) URL, or a credential is missing.
        """
        wire = Wire(
            settings.s3_endpoint,
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key,
            region=settings.s3_region,
            ca_file=settings.s3_ca_file,
            deadline=settings.store_deadline_seconds,
        )
        return cls(wire, settings.s3_bucket, settings.namespace, region=settings.s3_region)

    def get(self, key: str) -> Stored | None:
        return self._wire.until_known(f"GET {key}", lambda: self._get(key))

    def _get(self, key: str) -> Stored | None:
        reply = self._wire.send("GET", self._path(key), accept=(NO_SUCH_KEY,))
        return None if reply.code else Stored(reply.body, _etag(reply))

    def put(self, key: str, body: bytes) -> None:
        self._wire.until_known(f"PUT {key}", lambda: _etag(self._wire.send("PUT", self._path(key), body=body)))

    def create(self, key: str, body: bytes) -> bool:
        def attempt() -> bool:
            headers = {"if-none-match": "*"}
            reply = self._wire.send("PUT", self._path(key), body=body, headers=headers, accept=(PRECONDITION_FAILED,))
            if not reply.code:
                return bool(_etag(reply))
            there = self._get(key)
            if there is None:
                raise Unknown("412, and then there was no object")
            return there.body == body

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
        cut = len(self._prefix)
        query = {"list-type": "2", "max-keys": str(_PAGE), "prefix": self._prefix + prefix}
        if after:
            query["start-after"] = self._prefix + after
        while True:
            reply = self._wire.until_known(
                f"LIST {prefix}",
                lambda: _document(self._wire.send("GET", self._bucket, query=query), "ListBucketResult"),
            )
            page = reply.body.decode("utf-8", "replace")
            found = [html.unescape(key) for key in re.findall(r"<Key>([^<]*)</Key>", page)]
            yield from (key[cut:] for key in found)
            if "<IsTruncated>true</IsTruncated>" not in page:
                return
            query["start-after"] = found[-1]

    def delete(self, keys: Sequence[str]) -> None:
        for first in range(0, len(keys), _PAGE):
            objects = "".join(
                f"<Object><Key>{html.escape(self._prefix + check_key(key))}</Key></Object>"
                for key in keys[first : first + _PAGE]
            )
            body = f"<Delete><Quiet>true</Quiet>{objects}</Delete>".encode()
            md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
            reply = self._wire.until_known(
                f"DELETE {keys[first]}",
                lambda body=body, md5=md5: self._wire.send(
                    "POST", self._bucket, body=body, headers={"content-md5": md5}, query={"delete": ""}
                ),
            )
            if b"<Error>" in reply.body:
                code, message = error_of(reply.body)
                raise StoreRefused(f"{self._wire.endpoint} refused to delete {keys[first]!r}: {code} ({message})")

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

    def probe_when_due(self) -> None:
        """As ``probe``, unless it passed by this endpoint a short while ago."""
        probe_when_due(self, self._wire.endpoint, time.time())

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


def _document(reply: Reply, root: str) -> Reply:
    if f"<{root}".encode() not in reply.body:
        raise Unknown(f"{reply.status} without <{root}>: no answer of an S3 store; what is in front of it?")
    return reply
