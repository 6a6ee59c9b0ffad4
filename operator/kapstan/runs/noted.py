"""One signed object a run in the object store, ``<folder>/<run>``. Used by ``submissions`` and ``ends``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kapstan.backend import Backend
from kapstan.errors import StoreUnsafe
from kapstan.ids import RunId, new_nonce
from kapstan.signatures import Purpose


@dataclass(frozen=True, slots=True)
class Notes:
    """What a folder notes of runs.

    Attributes:
        folder: its name, with the slash.
        purpose: what a note is signed for.
        format: of its body; another one is not read.
    """

    folder: str
    purpose: Purpose
    format: int

    def name(self, run_id: RunId) -> str:
        return f"{self.folder}{run_id}"

    def remove(self, backend: Backend, run_id: RunId) -> None:
        """
        Raises:
            BackendError: it may still be there.
        """
        backend.store.delete([self.name(run_id)])

    def sealed(self, backend: Backend, run_id: RunId, body: dict[str, Any]) -> bytes:
        body |= {"v": self.format, "nonce": new_nonce()}  # the nonce tells this write from every other
        return backend.codec.encode(body, self.purpose, run_id)

    def opened(self, backend: Backend, run_id: RunId, sealed: bytes) -> dict[str, Any]:
        """
        Raises:
            SignatureError, SerializationError: it is not ours.
            StoreUnsafe: a newer release wrote it.
        """
        body: Any = backend.codec.decode_json(sealed, self.purpose, run_id)
        if body["v"] != self.format:
            raise StoreUnsafe(f"{self.name(run_id)} has format {body['v']}; this release reads {self.format}")
        return body
