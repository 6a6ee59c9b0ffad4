"""Lock managers: ``MemoryLockManager``, ``FileSystemLockManager``, ``RedisLockManager``, ``PostgresLockManager``.

A lock manager on a cache policy orders those who want the same key: one computes, the others wait and take its result.
It may also be used by itself::

    locks = RedisLockManager(host="redis")
    if locks.acquire_lock("invoice-812", holder, acquire_timeout=5):
        try: ...
        finally: locks.release_lock("invoice-812", holder)

They are plain values: nothing is connected before the first use, and they pickle to any process. See docs/locking.md.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from kapstan import backend
from kapstan.backend import LockPlace
from kapstan.errors import ConfigurationError, LockLost, LockUnavailable, NotLockHolder
from kapstan.ids import new_nonce
from kapstan.ports import LockHolder
from kapstan.ports import LockManager as _Port

__all__ = [
    "FileSystemLockManager",
    "HeldLock",
    "LockHolder",
    "LockLost",
    "LockManager",
    "LockUnavailable",
    "MemoryLockManager",
    "NotLockHolder",
    "PostgresLockManager",
    "RedisLockManager",
]


class HeldLock(NamedTuple):
    """What ``LockManager.lock`` gives: the lock of ``key``, held by ``holder`` under a fencing ``token``."""

    manager: LockManager
    key: str
    holder: str
    token: int

    def guard(self) -> int:
        """The token, if the lock is still held by the word of the service; ask before an effect that must not be late.

        Raises:
            LockLost: it was lost.
            LockUnavailable: the service does not answer.
        """
        return self.manager.guard_lock(self.key, self.holder)


class LockManager:
    """What all lock managers do. Times are in seconds; None: without end.

    ``holder`` is any text that only one caller uses. Who holds a key and asks for it again has it at once; one release
    frees it. Others get it in the order in which they asked, across all processes.
    """

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        """Whether ``holder`` holds ``key`` now: False if it did not get it within ``acquire_timeout`` (0: do not wait).

        ``hold_timeout``: the lock is free again so long after it was granted, whatever the holder does.

        Raises:
            LockUnavailable: the service that keeps the locks does not answer; nothing is locked.
            ValueError: an empty key or holder, or a ``hold_timeout`` that is not above 0.
        """
        return self._locks().acquire_lock(key, holder, acquire_timeout, hold_timeout)

    async def aacquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        """As ``acquire_lock``; a call that is cancelled leaves the line."""
        return await self._locks().aacquire_lock(key, holder, acquire_timeout, hold_timeout)

    def release_lock(self, key: str, holder: str) -> None:
        """Free ``key``: the next in line has it.

        Raises:
            NotLockHolder: ``holder`` does not hold it (a ValueError).
            LockLost: it did, and lost it; what it protects may be somebody else's by now (a NotLockHolder).
        """
        self._locks().release_lock(key, holder)

    async def arelease_lock(self, key: str, holder: str) -> None:
        """As ``release_lock``."""
        await self._locks().arelease_lock(key, holder)

    def is_locked(self, key: str) -> bool:
        """Whether anybody holds ``key``."""
        return self._locks().is_locked(key)

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Whether ``holder`` holds ``key``, by the word of the service."""
        return self._locks().is_lock_holder(key, holder)

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until ``key`` is free or was given back once since the call; False after ``timeout``."""
        return self._locks().wait_for_lock(key, timeout)

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """As ``wait_for_lock``."""
        return await self._locks().await_for_lock(key, timeout)

    def lock_holder(self, key: str) -> LockHolder | None:
        """Who holds ``key``, since when, under which token, and how many wait; None: nobody."""
        return self._locks().lock_holder(key)

    def guard_lock(self, key: str, holder: str) -> int:
        """The fencing token of ``holder``, if it still holds ``key`` by the word of the service.

        Raises:
            NotLockHolder, LockLost: as ``release_lock``.
        """
        return self._locks().guard_lock(key, holder)

    async def aguard_lock(self, key: str, holder: str) -> int:
        """As ``guard_lock``."""
        return await self._locks().aguard_lock(key, holder)

    @contextmanager
    def lock(
        self, key: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> Generator[HeldLock]:
        """Hold ``key`` for a ``with`` block, under a holder of its own. A process that is forked in the block holds
        nothing, and gives nothing back when it leaves it.

        Raises:
            TimeoutError: not within ``acquire_timeout``.
            LockLost: at the end of the block: it was lost meanwhile.
        """
        holder, process, over = new_nonce(), os.getpid(), False
        if not self.acquire_lock(key, holder, acquire_timeout, hold_timeout):
            raise TimeoutError(f"The lock {key[:100]!r} was not free within {acquire_timeout:g} s")
        try:
            try:
                yield HeldLock(self, key, holder, self.guard_lock(key, holder))
            except BaseException:
                if os.getpid() == process:
                    self._release_quietly(key, holder)  # what the block raised says more
                over = True
                raise
            if os.getpid() == process:
                self.release_lock(key, holder)
        except (NotLockHolder, LockUnavailable):
            raise
        except BaseException:  # of a signal, it may be before the release began
            if not over and os.getpid() == process:
                self._release_quietly(key, holder)
            raise

    def _release_quietly(self, key: str, holder: str) -> None:
        with suppress(NotLockHolder, LockUnavailable):
            self.release_lock(key, holder)

    def _locks(self) -> _Port:
        raise NotImplementedError


@dataclass(frozen=True)
class MemoryLockManager(LockManager):
    """Locks of this process alone: all of them are one, and each process has its own."""

    def _locks(self) -> _Port:
        return _kept_at(LockPlace("memory"))


@dataclass(frozen=True)
class FileSystemLockManager(LockManager):
    """Locks of the processes of one machine, kept in a folder that they share.

    Args:
        lock_files_directory: made at the first use; a relative one counts from the working directory of each process.
    """

    lock_files_directory: str | os.PathLike[str]

    def __post_init__(self) -> None:
        given: object = self.lock_files_directory
        if not isinstance(given, str | os.PathLike) or not os.fspath(self.lock_files_directory):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"lock_files_directory={given!r}: give the path of a folder")
        object.__setattr__(self, "lock_files_directory", Path(self.lock_files_directory).expanduser())

    def _locks(self) -> _Port:
        return _kept_at(LockPlace("files", os.path.abspath(self.lock_files_directory)))


@dataclass(frozen=True)
class RedisLockManager(LockManager):
    """Locks in Redis, for all processes that reach it. Without arguments: the Redis of this process' own settings.

    Args:
        host, port, db, username, password, ssl: where Redis is.
        connection_url: the same as an address (``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://``).
    """

    host: str | None = None
    port: int = 6379
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ssl: bool = False
    connection_url: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.connection_url is not None:
            if self.host is not None:
                raise ConfigurationError("RedisLockManager: give host= or connection_url=, not both")
            if "://" not in self.connection_url:
                raise ConfigurationError("RedisLockManager: connection_url= must begin with redis://, or the like")
        elif self.host is None and (self.password or self.username or self.ssl or (self.port, self.db) != (6379, 0)):
            raise ConfigurationError("RedisLockManager: give host= with port=, db=, username=, password= or ssl=")

    def _url(self) -> str:
        if self.connection_url is not None or self.host is None:
            return self.connection_url or ""
        user = quote(self.username or "", safe="")
        login = f"{user}:{quote(self.password or '', safe='')}@" if self.username or self.password else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis{'s' if self.ssl else ''}://{login}{host}:{self.port}/{self.db}"

    def _locks(self) -> _Port:
        return _kept_at(LockPlace("redis", self._url()))


@dataclass(frozen=True)
class PostgresLockManager(LockManager):
    """Locks in a PostgreSQL database, in tables of their own that the first use makes. Needs the extra ``postgres``.

    Args:
        dsn: as libpq takes it: ``postgresql://user@host/database`` or ``host=... dbname=...``.
    """

    dsn: str = field(repr=False)

    def __post_init__(self) -> None:
        given: object = self.dsn
        if not isinstance(given, str) or not given.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"dsn={given!r}: give an address such as postgresql://user@host/database")

    def _locks(self) -> _Port:
        return _kept_at(LockPlace("postgres", self.dsn))


def _kept_at(place: LockPlace) -> _Port:
    try:
        return backend.current().locks(place)
    except RuntimeError as error:  # of an import: Python refuses some of them by then
        raise LockUnavailable(
            f"no lock can be had for the first time while the interpreter ends ({error}): use the manager before"
        ) from error
