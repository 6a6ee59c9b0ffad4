"""What a namespace has in a result storage that was named: laid out there as in its own store. Called by ``sweep``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from kapstan.backend import Backend
from kapstan.errors import StoreRefused
from kapstan.ports import Listed, ListedLog, Store
from kapstan.store.marks import Marked, folder_of


class MarkedStore:
    """As much of ``ports.Store`` as a sweep needs, by the keys that the namespace's own store would have."""

    def __init__(self, store: Store, mark: str) -> None:
        self._store = store
        self._folder = folder_of(mark)

    def listed(self, prefix: str) -> Iterator[Listed]:
        for entry in self._store.listed(self._folder + prefix):
            yield entry._replace(key=entry.key.removeprefix(self._folder))

    def logs(self, prefix: str) -> Iterator[ListedLog]:
        del prefix
        return iter(())

    def delete_each(self, keys: Sequence[str]) -> dict[str, str]:
        refused = self._store.delete_each([self._folder + key for key in keys])
        return {key.removeprefix(self._folder): reason for key, reason in refused.items()}

    def now(self) -> float:
        return self._store.now()


def opened(backend: Backend, found: Marked) -> MarkedStore | None:
    """None: it is a folder that this machine does not have.

    Raises:
        ConfigurationError, StoreUnavailable, StoreRefused: it cannot be looked at.
    """
    kind, _, place = found.address.partition("://")
    if kind == "file":
        try:
            if not Path(place, folder_of(found.mark)).is_dir():
                return None
        except OSError as error:
            raise StoreRefused(f"{place}: {error.strerror}") from error
    return MarkedStore(cast("Store", backend.objects(found.address)), found.mark)
