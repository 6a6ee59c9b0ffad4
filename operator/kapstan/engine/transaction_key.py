"""The key of a transaction: what stands for it in a result store once it is committed, and the lock of that key.

The store orders and remembers, it proves nothing: what must not be done twice belongs into tasks with an effect class.
"""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass, field
from typing import Any, Protocol

from kapstan.engine.operations import Operation
from kapstan.errors import KapstanError, TransactionError
from kapstan.ids import new_nonce

logger = logging.getLogger("kapstan.transactions")


class IsolationLevel(enum.StrEnum):
    """What others may do under the same key meanwhile."""

    READ_COMMITTED = "READ_COMMITTED"
    """Run, too; the first result that is stored counts."""
    SERIALIZABLE = "SERIALIZABLE"
    """Wait: one after the other, in the order of a lock manager."""


class KeyStore(Protocol):
    """What ``transaction(store=)`` must have; ``kapstan.results.ResultStore`` does. Two more methods are used where it
    has them: ``write_new``, so that of two that commit at once the first counts, and ``check_write``, so that of
    transactions in one another all are stored or none."""

    @property
    def lock_manager(self) -> Any: ...
    def exists(self, key: str, /) -> bool: ...
    def read(self, key: str, holder: str | None = None) -> Any: ...
    def write(self, obj: Any, key: str, *, holder: str | None = None) -> Any: ...
    def acquire_lock(self, key: str, holder: str) -> bool: ...
    async def aacquire_lock(self, key: str, holder: str) -> bool: ...
    def release_lock(self, key: str, holder: str) -> None: ...


@dataclass
class TransactionKey:
    """The key of one transaction.

    Attributes:
        overwrite: the body runs whatever stands there, and its result takes the place of that.
        write_on_commit: whether the commit stores a result.
        holder: of the lock.
        is_locked: whether it has the lock, as far as it knows.
    """

    key: str
    store: KeyStore
    isolation: IsolationLevel
    overwrite: bool = False
    write_on_commit: bool = True
    holder: str = field(default_factory=new_nonce)
    is_locked: bool = False

    @property
    def is_serializable(self) -> bool:
        return self.isolation is IsolationLevel.SERIALIZABLE

    def exists(self) -> bool:
        return self.store.exists(self.key)

    def check_name(self) -> None:
        """See that its store can have such a key, as ``exists`` does.

        Raises:
            ConfigurationError: it cannot.
        """
        check_write = getattr(self.store, "check_write", None)
        if check_write is not None:
            check_write(None, self.key)

    def check(self, value: Any) -> None:
        """See that ``keep`` will not refuse ``value``, as far as that can be known before.

        Raises:
            LockLost, SerializationError, ValueTooLarge, ConfigurationError: as ``keep``.
        """
        self._guard()
        check_write = getattr(self.store, "check_write", None)
        if self.write_on_commit and check_write is not None:
            check_write(value, self.key)

    def _guard(self) -> None:
        guard = getattr(self.store.lock_manager, "guard_lock", None) if self.is_locked else None
        if guard is not None:
            guard(self.key, self.holder)

    def keep(self, value: Any) -> None:
        """Store ``value``, unless another result is there already.

        Raises:
            LockLost: another one may have the key by now.
            SerializationError, ValueTooLarge, ConfigurationError: it cannot be stored.
            BackendError: the storage does not take it.
        """
        self._guard()
        if not self.write_on_commit:
            return
        write_new = getattr(self.store, "write_new", None)
        if not self.overwrite and write_new is not None:
            write_new(value, self.key, holder=self.holder)
        elif self.overwrite or not self.exists():
            self.store.write(value, self.key, holder=self.holder)

    def free(self) -> None:
        """Give the lock back, if it has it."""
        if not self.is_locked:
            return
        try:
            self.store.release_lock(self.key, self.holder)
        except KapstanError as error:  # the transaction is over: nothing depends on it any more
            logger.warning("The lock of key %r is not given back: %s", self.key, error)
        self.is_locked = False  # not before: Ctrl-C may come between


class Lock(Operation):
    """Wait for the lock of a key.

    Raises:
        LockUnavailable: the service that keeps the locks does not answer.
    """

    __slots__ = ("_key",)

    def __init__(self, key: TransactionKey) -> None:
        self._key = key

    def block(self) -> None:
        key = self._key
        key.is_locked = True  # before, since an exception of a signal may come between
        self._check(key.store.acquire_lock(key.key, key.holder))

    async def on_loop(self) -> None:
        key = self._key
        key.is_locked = True
        self._check(await key.store.aacquire_lock(key.key, key.holder))

    def _check(self, got: bool) -> None:
        if not got:
            self._key.is_locked = False
            raise TransactionError(f"the lock of key {self._key.key!r} was not to be had")
