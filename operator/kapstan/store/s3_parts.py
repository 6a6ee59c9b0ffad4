"""Objects to and from S3 in parts, so that no more than one part of them is in memory. Called by ``s3`` only.

What fits one part goes up in one request. A larger one is a multipart upload: nothing of it is an object before the
last request, and one that is broken off is ended; the store itself must drop those whose process was killed (MinIO does
so after a day, others by a lifecycle rule).
"""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from kapstan.errors import KapstanError, StoreUnavailable
from kapstan.store.s3_wire import NO_SUCH_KEY, PRECONDITION_FAILED, Reply, Unknown, Wire

log = logging.getLogger("kapstan.store")
PART_BYTES = 8 * 1024 * 1024
_HEAD_BYTES = 4096  # of an upload: they tell whether what is there is ours
_FIRST_BYTES = 256 * 1024  # of a download: whoever looks at the head of an object need not fetch more
_NO_SUCH_UPLOAD, _INVALID_RANGE = "NoSuchUpload", "InvalidRange"


class PartsUp:
    """An object that is being written; ``end`` makes it one, ``abort`` leaves nothing.

    Args:
        condition: header of the request that makes it one: ``if-none-match`` or ``if-match``.
        before_parts: called before the first part is sent.

    Attributes:
        is_there: after ``end``, whether it was written.
    """

    def __init__(
        self,
        wire: Wire,
        path: str,
        condition: Mapping[str, str] = MappingProxyType({}),
        before_parts: Callable[[], object] = lambda: None,
    ) -> None:
        self._wire = wire
        self._path = path
        self._condition = condition
        self._missed = (PRECONDITION_FAILED, NO_SUCH_KEY) if condition else ()
        self._before_parts = before_parts
        self.is_there = False
        self._head = b""
        self._part = bytearray()
        self._upload = ""
        self._etags: list[str] = []
        self._size = 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._head += bytes(view[: _HEAD_BYTES - len(self._head)])
        taken = 0
        while taken < len(view):
            if len(self._part) == PART_BYTES:
                self._send_part()
            piece = view[taken : taken + PART_BYTES - len(self._part)]
            self._part += piece
            taken += len(piece)
        self._size += len(view)
        return len(view)

    def end(self, *, in_parts: bool = False) -> None:
        """
        Args:
            in_parts: also what fits one part.
        """
        if not self._upload and not in_parts:
            self.is_there = self._asked("PUT", self._put)
            return
        self._send_part()
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{html.escape(etag)}</ETag></Part>"
            for number, etag in enumerate(self._etags, 1)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        self.is_there = self._asked("complete", lambda: self._complete(body))

    def _put(self) -> bool:
        reply = self._wire.send("PUT", self._path, body=self._part, headers=self._condition, accept=self._missed)
        if reply.code:
            return self._is_ours()
        _with_etag(reply)
        return True

    def _complete(self, body: bytes) -> bool:
        query, accept = {"uploadId": self._upload}, (_NO_SUCH_UPLOAD, *self._missed)
        reply = self._wire.send("POST", self._path, body=body, headers=self._condition, query=query, accept=accept)
        if reply.code:
            is_ours = self._is_ours()
            if not is_ours and reply.code == _NO_SUCH_UPLOAD:
                raise StoreUnavailable(f"the store has lost the upload of {self._path}: {reply.code}; store it again")
            return is_ours
        if b"<CompleteMultipartUploadResult" not in reply.body:  # a 200 may hold an error
            raise Unknown(f"{reply.status} without <CompleteMultipartUploadResult>: {reply.body[:200]!r}")
        return True

    def _is_ours(self) -> bool:
        """Whether what is there is this object, as after a success whose reply was lost."""
        there = _range(self._wire, self._path, 0, max(1, len(self._head)), "")
        if there is None and "if-none-match" in self._condition:
            raise Unknown("it was said that there is an object, and then there was none")
        return there is not None and there.size == self._size and there.body[: len(self._head)] == self._head

    def abort(self) -> None:
        if not self._upload:
            return
        try:
            query = {"uploadId": self._upload}
            self._wire.send("DELETE", self._path, query=query, accept=(_NO_SUCH_UPLOAD,))
        except (KapstanError, Unknown) as error:
            log.warning("the upload of %s was broken off, and what was sent of it may stay: %s", self._path, error)

    def _send_part(self) -> None:
        if not self._upload:
            self._before_parts()
            self._upload = self._asked("begin", self._begin)
        query = {"partNumber": str(len(self._etags) + 1), "uploadId": self._upload}
        reply = self._asked(
            f"PUT part {query['partNumber']} of",
            lambda: _with_etag(self._wire.send("PUT", self._path, body=self._part, query=query)),
        )
        self._etags.append(reply.etag)
        self._part = bytearray()  # not clear(): the traceback of a try that was lost may still refer to it

    def _begin(self) -> str:
        reply = self._wire.send("POST", self._path, query={"uploads": ""})
        found = re.search(r"<UploadId>([^<]+)</UploadId>", reply.body.decode("utf-8", "replace"))
        if found is None:
            raise Unknown(f"{reply.status} without <UploadId>: no answer of an S3 store; what is in front of it?")
        return html.unescape(found[1])

    def _asked(self, what: str, ask: Any) -> Any:
        return self._wire.until_known(f"{what} {self._path}", ask)


class PartsDown:
    """An object that is being read; ``more`` gives the next part.

    Attributes:
        exists: whether there is one.
    """

    def __init__(self, wire: Wire, path: str) -> None:
        self._wire = wire
        self._path = path
        self._etag = ""
        self._at = 0
        self._next: Reply | None = self._fetched()
        self.exists = self._next is not None

    def more(self) -> bytes:
        """The next part, b"" at the end.

        Raises:
            StoreUnavailable: the object was replaced meanwhile: read it again.
        """
        reply, self._next = self._next, None
        if reply is None:
            if self._at >= self._size:
                return b""
            reply = self._fetched()
            if reply is None or reply.code:
                raise StoreUnavailable(f"{self._path} was replaced while it was read; read it again")
        self._at += len(reply.body)
        return reply.body

    def _fetched(self) -> Reply | None:
        reply = self._wire.until_known(
            f"GET {self._path}",
            lambda: _range(self._wire, self._path, self._at, PART_BYTES if self._etag else _FIRST_BYTES, self._etag),
        )
        if reply is not None and not reply.code:
            self._etag, self._size = reply.etag, reply.size
        return reply


def _range(wire: Wire, path: str, start: int, length: int, etag: str) -> Reply | None:
    """``length`` bytes from ``start`` on, the whole if the store knows no ranges; None if there is no object."""
    headers = {"range": f"bytes={start}-{start + length - 1}", **({"if-match": etag} if etag else {})}
    accept = (NO_SUCH_KEY, PRECONDITION_FAILED, _INVALID_RANGE)
    reply = wire.send("GET", path, headers=headers, accept=accept)
    if reply.code == NO_SUCH_KEY:
        return None
    if reply.code == _INVALID_RANGE:  # of an empty object
        return Reply(200, b"", "", "", size=0)
    if not reply.code:
        _with_etag(reply)
        if reply.status != 206 and start:
            raise Unknown(f"{reply.status} to a request for a part; what is in front of the store?")
        if reply.size < start + len(reply.body):
            raise Unknown("a part without its place in the whole; what is in front of the store?")
    return reply


def _with_etag(reply: Reply) -> Reply:
    """``reply``; a success without a version came from something in front of the store."""
    if not reply.etag:
        raise Unknown(f"{reply.status} without an ETag: no answer of an S3 store; what is in front of it?")
    return reply
