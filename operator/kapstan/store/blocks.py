"""``ports.Objects`` over an object of the user's that has ``read_path`` and ``write_path``. Made by ``backend``."""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Generator
from typing import Any, cast

from kapstan.errors import StoreRefused, StoreUnavailable
from kapstan.ports import Stored
from kapstan.store.keys import check_key

_MISSING = (FileNotFoundError, KeyError)


class BlockObjects:
    """Objects in a block: ``read_path(path) -> bytes`` and ``write_path(path, content)``, plain or async.

    A ``FileNotFoundError`` or ``KeyError`` of ``read_path`` means that there is no such object. Any other error of the
    block is ``StoreUnavailable``: what it means is not known here. Values are whole in memory.
    """

    def __init__(self, block: Any, name: str) -> None:
        self._block = block
        self._name = name

    def get(self, key: str) -> Stored | None:
        path = check_key(key)
        try:
            body: Any = _awaited(self._block.read_path(path))
        except _MISSING:
            return None
        except Exception as error:
            raise StoreUnavailable(f"{self._name} cannot read {path!r}: {type(error).__name__}: {error}") from error
        if not isinstance(body, (bytes, bytearray, memoryview)):
            raise StoreRefused(f"{self._name}.read_path({path!r}) gave {type(body).__name__}, not bytes")
        return Stored(bytes(cast("bytes", body)), "")

    def put(self, key: str, body: bytes) -> None:
        path = check_key(key)
        try:
            _awaited(self._block.write_path(path, body))
        except Exception as error:
            raise StoreUnavailable(f"{self._name} cannot write {path!r}: {type(error).__name__}: {error}") from error

    @contextlib.contextmanager
    def upload(self, key: str) -> Generator[io.BytesIO]:
        file = io.BytesIO()
        yield file
        self.put(key, file.getvalue())

    @contextlib.contextmanager
    def download(self, key: str) -> Generator[io.BytesIO | None]:
        stored = self.get(key)
        yield None if stored is None else io.BytesIO(stored.body)

    def close(self) -> None:
        """The block is its owner's."""


def _awaited(answer: Any) -> Any:
    """What a method of the block gave; of an async one what it will give, waited for on a thread without a loop."""
    if not inspect.isawaitable(answer):
        return answer
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    async def wait() -> Any:
        return await answer

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, wait()).result()
