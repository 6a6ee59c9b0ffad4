"""Which result storages the namespace has used, and the folder in each that is its own. Made by ``backend``.

Several namespaces may put their values in one storage. Each has a mark of its own there, drawn at random, and writes
below ``values/<mark>/`` only; so retention can tell what is its own, whoever else writes beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from kapstan.codec import Codec
from kapstan.errors import SerializationError
from kapstan.ids import new_nonce
from kapstan.ports import Store, Stored

FORMAT = 1
FOLDER = "storages"
UNSWEPT = "kept"
"""In place of a mark: retention does not look there."""


class Marked(NamedTuple):
    """A result storage, and the namespace's mark there; "" if the note of it cannot be read."""

    address: str
    mark: str


class StorageMarks:
    """The notes of one namespace, in its store.

    Raises (every method):
        StoreUnavailable, StoreRefused: as the store's methods.
    """

    def __init__(self, store: Store, codec: Codec) -> None:
        self._store = store
        self._codec = codec

    def of(self, address: str) -> str:
        """The mark in a storage; made when it is first used. A note that cannot be read, since it is signed by a key
        that nobody has any more, gives way to a new one: what stands below the old mark then stays."""
        name = _name(address)
        while True:
            stored = self._store.get(name)
            known = None if stored is None else self._read(name, stored)
            if known is not None:
                return known.mark
            mark = new_nonce()
            body = self._codec.encode({"v": FORMAT, "address": address, "mark": mark}, "register", name)
            written = (
                self._store.create(name, body)
                if stored is None
                else self._store.replace(name, body, stored.version) is not None
            )
            if written:
                return mark

    def all(self) -> Iterator[Marked]:
        for name in self._store.keys(f"{FOLDER}/"):
            stored = self._store.get(name)
            if stored is not None:
                yield self._read(name, stored) or Marked(name, "")

    def _read(self, name: str, stored: Stored) -> Marked | None:
        try:
            value: Any = self._codec.decode_json(stored.body, "register", name)
        except SerializationError:
            return None
        return Marked(value["address"], value["mark"]) if value["v"] == FORMAT else None


def folder_of(mark: str) -> str:
    """Where in a storage the values stand that are written under ``mark``."""
    return f"values/{mark}/"


def _name(address: str) -> str:
    return f"{FOLDER}/{hashlib.sha256(address.encode()).hexdigest()[:40]}"
