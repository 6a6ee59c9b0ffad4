"""Where values are put and read back: the store of a namespace, or a result storage that a task or flow names."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol


class Stored(NamedTuple):
    """An object and the version (opaque, exactly as the store gave it) that a conditional replace names."""

    body: bytes
    version: str


class Upload(Protocol):
    """An object that is being written."""

    def write(self, data: Any, /) -> object:
        """Take a piece of the object: bytes, or what has a buffer of them."""
        ...


class Download(Protocol):
    """An object that is being read, as a binary file."""

    def read(self, size: int = -1, /) -> bytes: ...
    def readinto(self, buffer: Any, /) -> int: ...
    def readline(self) -> bytes: ...


class Objects(Protocol):
    """Whole objects by key; the keys and their limits are those of ``Store``.

    Raises:
        StoreUnavailable: no answer within the deadline; whether a write landed is unknown.
        StoreRefused: the store said no for a reason that repeating cannot cure.
    """

    def get(self, key: str) -> Stored | None:
        """The object, or None."""
        ...

    def put(self, key: str, body: bytes) -> None:
        """Write whatever is there. Only for names that are unique to one attempt, so that a repeat is harmless."""
        ...

    def upload(self, key: str) -> AbstractContextManager[Upload]:
        """As ``put``, in pieces: the object is there when the block ends, and is not if an error ends it."""
        ...

    def download(self, key: str) -> AbstractContextManager[Download | None]:
        """As ``get``, in pieces, all of the object as it was when the block began."""
        ...

    def close(self) -> None: ...
