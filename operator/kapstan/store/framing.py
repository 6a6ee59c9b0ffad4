"""Frames: records on a byte stream that a reader can trust after a crash. Used by the local log and by segments.

A frame is ``length crc body newline``, both numbers in 8 hexadecimal digits. A short write is seen by its length, a
changed byte by its checksum; a bare line of JSON would show neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from zlib import crc32

_HEAD = 18  # "xxxxxxxx xxxxxxxx "


class Scan(NamedTuple):
    """What a scan found: the bodies of the good frames, and how many bytes those take up."""

    bodies: list[bytes]
    end: int


def frame(body: bytes) -> bytes:
    return b"%08x %08x %b\n" % (len(body), crc32(body), body)


def frames(bodies: Iterable[bytes]) -> bytes:
    return b"".join([frame(body) for body in bodies])


def scan(data: bytes) -> Scan:
    """The good frames from the beginning of ``data`` up to the first bad one."""
    bodies: list[bytes] = []
    position, last = 0, len(data) - _HEAD
    try:  # what ``_body_at`` does, written out: a resume scans ten thousand frames, and those in them
        while position < last and data[position + 8] == 32 and data[position + 17] == 32:
            start = position + _HEAD
            end = start + int(data[position : position + 8], 16)
            body = data[start:end]
            if end < start or data[end : end + 1] != b"\n" or crc32(body) != int(data[position + 9 : start - 1], 16):
                break
            bodies.append(body)
            position = end + 1
    except ValueError:
        pass  # no length, or no checksum
    return Scan(bodies, position)


def is_damaged(data: bytes, end: int) -> bool:
    """Whether the bad frame at ``end`` is no torn tail: a good one follows it, or all of it is there but for its
    newline. To cut it would lose what was acknowledged."""
    head = _head_at(data, end)
    if head is not None:
        stop = end + _HEAD + head[0]
        whole = len(data) > stop and crc32(data[end + _HEAD : stop]) == head[1]
        if whole or _body_at(data, stop + 1) is not None:
            return True
    position = data.find(b"\n", end)
    while position != -1:
        if _body_at(data, position + 1) is not None:
            return True
        position = data.find(b"\n", position + 1)
    return False


def _head_at(data: bytes, position: int) -> tuple[int, int] | None:
    """Length and checksum of the frame at ``position``; None if there is no head of a frame."""
    head = data[position : position + _HEAD]
    if len(head) < _HEAD or head[8] != 32 or head[17] != 32:
        return None
    try:
        length, checksum = int(head[:8], 16), int(head[9:17], 16)
    except ValueError:
        return None
    return None if length < 0 else (length, checksum)


def _body_at(data: bytes, position: int) -> bytes | None:
    head = _head_at(data, position)
    if head is None:
        return None
    start = position + _HEAD
    end = start + head[0]
    body = data[start:end]
    return body if data[end : end + 1] == b"\n" and crc32(body) == head[1] else None
