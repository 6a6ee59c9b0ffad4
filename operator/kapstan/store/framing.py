"""Frames: records on a byte stream that a reader can trust after a crash. Used by the local log and by segments.

A frame is ``length crc body newline``, both numbers in 8 hexadecimal digits. A short write is seen by its length, a
changed byte by its checksum; a bare line of JSON would show neither.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import NamedTuple

_HEAD = 18  # "xxxxxxxx xxxxxxxx "


class Scan(NamedTuple):
    """What a scan found: the bodies of the good frames, and how many bytes those take up."""

    bodies: list[bytes]
    end: int


def frame(body: bytes) -> bytes:
    return b"%08x %08x %b\n" % (len(body), zlib.crc32(body), body)


def frames(bodies: Iterable[bytes]) -> bytes:
    return b"".join([frame(body) for body in bodies])


def scan(data: bytes) -> Scan:
    """The good frames from the beginning of ``data`` up to the first bad one."""
    bodies: list[bytes] = []
    position = 0
    while (body := _body_at(data, position)) is not None:
        bodies.append(body)
        position += _HEAD + len(body) + 1
    return Scan(bodies, position)


def is_damaged(data: bytes, end: int) -> bool:
    """Whether a good frame follows the bad one at ``end``: then it is no torn tail, and cutting it would lose what was
    acknowledged."""
    position = data.find(b"\n", end)
    while position != -1:
        if _body_at(data, position + 1) is not None:
            return True
        position = data.find(b"\n", position + 1)
    return False


def _body_at(data: bytes, position: int) -> bytes | None:
    start = position + _HEAD
    head = data[position:start]
    if len(head) < _HEAD or head[8] != 32 or head[17] != 32:
        return None
    try:
        end = start + int(head[:8], 16)
        checksum = int(head[9:17], 16)
    except ValueError:
        return None
    body = data[start:end]
    return body if data[end : end + 1] == b"\n" and zlib.crc32(body) == checksum else None
