"""HMAC-SHA256 over what stands in one place: namespace, purpose, key of the place, serializer, body."""

from __future__ import annotations

import hashlib
from typing import Any, Literal, NamedTuple, get_args

FORMAT = b"\x01"
Purpose = Literal["arguments", "result", "journal", "register", "value", "summary", "rerun", "submission", "ended"]


class Hmac(NamedTuple):
    """HMAC-SHA256 (RFC 2104) with one key, begun: hashes that have taken in the key, the namespace and a purpose."""

    inner: dict[Purpose, Any]
    outer: Any

    @classmethod
    def begun(cls, secret: bytes, namespace: str) -> Hmac:
        key = (secret if len(secret) <= 64 else hashlib.sha256(secret).digest()).ljust(64, b"\0")
        pad = bytes(byte ^ 0x36 for byte in key)
        places: dict[Purpose, bytes] = {purpose: f"{namespace}\0{purpose}".encode() for purpose in get_args(Purpose)}
        inner: dict[Purpose, Any] = {
            purpose: hashlib.sha256(pad + FORMAT + len(place).to_bytes(4, "big") + place)
            for purpose, place in places.items()
        }
        return cls(inner, hashlib.sha256(bytes(byte ^ 0x5C for byte in key)))

    def begun_at(self, serializer: bytes, purpose: Purpose, key: str) -> Any:
        """The inner hash of what stands in one place; it lacks the body."""
        place = key.encode()
        inner = self.inner[purpose].copy()
        inner.update(len(place).to_bytes(4, "big") + place + serializer)
        return inner

    def sign(self, serializer: bytes, body: bytes, purpose: Purpose, key: str) -> bytes:
        place = key.encode()  # as begun_at, without its call: every background run passes here
        inner = self.inner[purpose].copy()
        inner.update(len(place).to_bytes(4, "big") + place + serializer)
        inner.update(body)
        outer = self.outer.copy()
        outer.update(inner.digest())
        return outer.digest()[:16]
