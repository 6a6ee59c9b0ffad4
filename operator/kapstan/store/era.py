"""``ports.EraRegister``: one signed object in a store, changed by conditional writes only. Made by ``backend``.

It outlives Redis: a counter in Redis goes back with it when Redis restarts or fails over, and two claims would then
carry one token.
"""

from __future__ import annotations

from typing import Any

from kapstan.codec import Codec
from kapstan.errors import StoreUnsafe
from kapstan.ids import new_nonce
from kapstan.ports import Store, Stored

FORMAT = 1
READABLE = (FORMAT,)  # this format and the one before it
_KEY = "era"


class StoredEra:
    """The era of one namespace, or of one shard of it.

    Raises (every method):
        StoreUnavailable, StoreRefused: as the store's methods.
        SignatureError, StoreUnsafe: the object was not written by Kapstan, or by a newer release.
    """

    def __init__(self, store: Store, codec: Codec, shard: str = "0") -> None:
        self._store = store
        self._codec = codec
        self._key = f"{_KEY}/{shard}"

    def current(self) -> int:
        stored = self._store.get(self._key)
        return 0 if stored is None else self._read(stored)[0]

    def raise_for(self, start: str, above: int) -> int:
        while True:
            stored = self._store.get(self._key)
            now, named = (0, "") if stored is None else self._read(stored)
            if named == start and now > above:
                return now
            raised = max(now, above) + 1
            # The nonce keeps versions apart (they may be digests) and tells our own bytes from another's raise.
            value = {"v": FORMAT, "era": raised, "start": start, "nonce": new_nonce()}
            body = self._codec.encode(value, "register", self._key)
            if stored is None:
                if self._store.create(self._key, body):
                    return raised
            elif self._store.replace(self._key, body, stored.version) is not None:
                return raised

    def _read(self, stored: Stored) -> tuple[int, str]:
        """The era, and the start of the server that it was raised for."""
        value: Any = self._codec.decode_json(stored.body, "register", self._key)
        if value["v"] not in READABLE:
            raise StoreUnsafe(f"the era register has format {value['v']}; this release reads {READABLE}")
        return value["era"], value.get("start", "")
