"""The object store, and the register of the era."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from kapstan.ports.objects import Objects, Upload
from kapstan.ports.run_log import RunLog


class Listed(NamedTuple):
    """An object as a listing shows it. ``modified``: Unix seconds of its last write, by the store's own clock."""

    key: str
    size: int
    modified: float


class ListedLog(NamedTuple):
    """A log as a listing shows it. Times are Unix seconds by the store's own clock.

    Attributes:
        objects, size: how many objects (or files) it takes up, and bytes.
        modified: of its last record.
        before: of everything but the last object: tells an old log to which one object was just added.
        bare: nothing is left but one object that cannot be the first: only a grave, or what a dead opener left.
    """

    name: str
    objects: int
    size: int
    modified: float
    before: float
    bare: bool


class ConditionalUpload(Upload, Protocol):
    """``is_there``: when its block has ended, whether it was written."""

    is_there: bool


class Store(Objects, Protocol):
    """Objects by key, with conditional writes. Keys are ``/``-separated ASCII; bodies are at most 5 GiB.
    No key may be the folder of another one (``a`` and ``a/b``): MinIO would not list the latter.

    Every method retries what is safe to repeat until ``deadline`` seconds (of the adapter) have passed.

    Raises:
        StoreUnavailable: no answer within the deadline; whether a write landed is unknown.
        StoreRefused: the store said no for a reason that repeating cannot cure.
    """

    def create(self, key: str, body: bytes) -> bool:
        """Write ``body`` unless the key exists: True if the object is now ours, False if another's was there.

        A lost reply is recognised by reading one's own bytes back, so ``body`` must hold something that no other
        writer writes (a token of this process start).
        """
        ...

    def create_version(self, key: str, body: bytes) -> str | None:
        """As ``create``: the version of the object that is ours now, or None."""
        ...

    def replace(self, key: str, body: bytes, version: str) -> str | None:
        """Write ``body`` if the object still has ``version``: the new version, or None if it changed or is gone.

        ``body`` must differ from everything that was ever stored here (a counter or nonce): versions may be digests.
        """
        ...

    def upload_if(self, key: str, version: str) -> AbstractContextManager[ConditionalUpload]:
        """As ``replace``, and with the version "" as ``create``, in pieces. What no other writer writes must be among
        the first 4 KiB.

        Raises:
            StoreUnsafe: by a write, or when the block ends: the store takes no conditions with what comes in parts.
        """
        ...

    def keys(self, prefix: str, after: str = "") -> Iterator[str]:
        """The keys that begin with ``prefix`` and sort after ``after``, in ascending order."""
        ...

    def listed(self, prefix: str) -> Iterator[Listed]:
        """As ``keys``, with sizes and times; page by page, so that memory does not grow with their number."""
        ...

    def logs(self, prefix: str) -> Iterator[ListedLog]:
        """The logs whose names begin with ``prefix`` (up to a slash), in ascending order; page by page as well."""
        ...

    def now(self) -> float:
        """Unix seconds by the clock that the times of ``listed`` are of; this machine's may be another."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Remove the objects; those that are not there are no error. Never a register, never a journal of a live
        run.

        Raises:
            StoreRefused: the first that was refused; the others are gone.
        """
        ...

    def delete_each(self, keys: Sequence[str]) -> dict[str, str]:
        """As ``delete``; answers with those that were refused, and why."""
        ...

    def probe(self) -> None:
        """Check that conditional writes hold: racing creates, create on existing, stale replace, replace of nothing.

        Raises:
            StoreUnsafe: they do not, with the check that failed.
        """
        ...

    def log(self, name: str) -> RunLog:
        """The append-only log called ``name`` (a flow run's journal), not opened yet."""
        ...


class EraRegister(Protocol):
    """Where the era lives: outside Redis, because a counter in Redis goes backwards with it."""

    def current(self) -> int: ...

    def raise_for(self, start: str, above: int) -> int:
        """The era of one start of the server (its ``run_id``), greater than ``above`` and all that others were given.

        Raises the register unless somebody has raised it for this very start already: two starts never share an era.
        """
        ...
