"""Transactions: tasks that are committed together, or undone together.

::

    @task
    def charge(user): ...

    @charge.on_rollback
    def refund(txn): payments.refund(txn.result)

    with transaction():
        charge("ada")
        ship("ada")        # raises: refund is called, and the exception goes on
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import Token
from types import TracebackType
from typing import Any, NamedTuple, TypeVar, cast

from kapstan import backend as backends
from kapstan.engine import transaction as transaction_parts
from kapstan.engine import transaction_end
from kapstan.engine.hook_options import hooks as hooks_of
from kapstan.engine.operations import adrive, drive
from kapstan.engine.steps import hooks, transaction_key
from kapstan.engine.to_the_end import ato_the_end, to_the_end
from kapstan.engine.transaction import CommitMode, Hook, Transaction, TransactionState
from kapstan.engine.transaction_key import IsolationLevel, KeyStore, TransactionKey
from kapstan.errors import ConfigurationError, TransactionError
from kapstan.result_store import ResultRecord, get_result_store

__all__ = [
    "CommitMode",
    "Hook",
    "IsolationLevel",
    "Transaction",
    "TransactionState",
    "atransaction",
    "get_transaction",
    "transaction",
]


Choice = TypeVar("Choice", CommitMode, IsolationLevel)


def _one_of(choices: type[Choice], option: str, value: Any) -> Choice | None:
    try:
        return None if value is None else choices(value)
    except ValueError:
        raise ConfigurationError(f"transaction({option}={value!r}): give one of {', '.join(choices)}") from None


def _bool(option: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"transaction({option}={value!r}): give True or False")
    return value


def _key_store(value: Any) -> KeyStore | None:
    needed = ("exists", "read", "write")
    if value is None or not (
        isinstance(value, type) or not all(callable(getattr(value, name, None)) for name in needed)
    ):
        return value
    raise ConfigurationError(
        f"transaction(store={value!r}): give a kapstan.results.ResultStore, such as ResultStore(result_storage=...)"
    )


def _hooks(option: str, value: Iterable[Hook] | None) -> tuple[Hook, ...]:
    several = isinstance(value, Iterable) and not isinstance(cast("Any", value), str)
    return () if value is None else hooks_of(f"stage({option})", list(value) if several else value)


class _Whole(Transaction):
    """What ``with transaction()`` gives."""

    def commit(self) -> None:
        """Commit it now instead of at its end: nothing of it can be undone any more.

        Raises:
            TransactionError: it is over.
        """
        self._check_active()
        drive(hooks.commit(self))

    def rollback(self) -> None:
        """Undo now what it holds, whatever the rest of its body does.

        Raises:
            TransactionError: it is over.
            Parked: a hook raised, in a flow.
        """
        self._check_active()
        drive(hooks.rollback(self, "its code said so"))

    def stage(
        self,
        value: Any = None,
        on_rollback_hooks: Iterable[Hook] | None = None,
        on_commit_hooks: Iterable[Hook] | None = None,
    ) -> None:
        """Add hooks, those for a rollback are called in reverse order, and say what ``result`` gives to them and the
        commit stores under its key. Nothing happens where its key was committed before.

        Raises:
            TransactionError: it is over: nobody would call or store them.
        """
        if not self.found and (self.is_committed() or self.is_rolled_back()):
            raise TransactionError(
                f"the transaction is {self.state}: what is staged now would never be called or stored"
            )
        undo, commit = _hooks("on_rollback_hooks", on_rollback_hooks), _hooks("on_commit_hooks", on_commit_hooks)
        super().stage(value, undo, commit)

    @property
    def key(self) -> str | None:
        return None if self.keyed is None else self.keyed.key

    @property
    def store(self) -> KeyStore | None:
        """Where its key is kept."""
        return None if self.keyed is None else self.keyed.store

    @property
    def isolation_level(self) -> IsolationLevel | None:
        return None if self.keyed is None else self.keyed.isolation

    def read(self) -> ResultRecord | None:
        """What stands under its key; None without a key. Before the transaction is committed it waits for somebody else
        who has locked the key; in asyncio use ``aread``.

        Raises:
            MissingResult: nothing does.
            SignatureError, UnreadableValue, BackendError: as ``ResultStore.read``.
        """
        if self.keyed is None:
            return None
        store, key = self.keyed.store, self.keyed.key
        # What is committed stays, and who has the lock by now may be a coroutine that this call keeps from going on.
        read_now = None if self.is_active() else getattr(store, "read_now", None)
        return store.read(key, self.keyed.holder) if read_now is None else read_now(key)

    async def aread(self) -> ResultRecord | None:
        """As ``read``, without blocking the event loop."""
        aread = None if self.keyed is None or not self.is_active() else getattr(self.keyed.store, "aread", None)
        if aread is None or self.keyed is None:
            return await backends.current().call(self.read)
        return await aread(self.keyed.key, self.keyed.holder)

    def _check_active(self) -> None:
        if not self.is_active():
            raise TransactionError(f"the transaction is {self.state}: it is over")


class _Entered(NamedTuple):
    txn: _Whole
    mark: Token[Transaction | None]


class transaction:  # noqa: N801  (used as a function, as Prefect's)
    """Context manager, for ``with`` and ``async with``: the tasks that are called in it are parts of one transaction.

    At its end, what they staged is committed: their ``on_commit`` hooks are called. If its body raises, what has
    completed is undone: their ``on_rollback`` hooks are called, the last one first, and the exception goes on. In a
    flow both are journalled: after a crash the next attempt calls the hooks that are left, each once.

    With a ``key`` the commit also stores the value that was staged (``txn.stage(value)``), None without one. Where that
    has been done, the transaction is committed from the beginning: ask ``txn.is_committed()`` in the body, and take the
    value from ``txn.read()``. Tasks that are called all the same are no part of it.

    Args:
        key: what it stands for in ``store``: a relative path.
        store: a ``kapstan.results.ResultStore`` or its like. Default: that of the transaction around it, else of the
            run (``get_result_store()``).
        commit_mode: when it is committed; default: as the transaction around it, else LAZY (at the end of the outermost
            one).
        isolation_level: what others may do under the same key meanwhile. READ_COMMITTED: run, too. SERIALIZABLE: they
            wait for the lock that the ``lock_manager`` of the store gives. Default: as the transaction around it, else
            READ_COMMITTED.
        overwrite: it is not committed from the beginning, and what it stores takes the place of what is there.
        write_on_commit: whether the commit stores the value.

    Raises:
        ConfigurationError: an argument that cannot be; SERIALIZABLE without a key or a lock manager.
        TransactionError: a transaction around it has the same key.
        LockUnavailable: the service that keeps the lock does not answer; nothing has begun.
        LockLost, SerializationError, ValueTooLarge: at its end: the value cannot be stored, and it was rolled back.
        BackendError: the storage is away, outside of a flow (a flow waits). At its end it is neither committed nor
            rolled back then: nobody knows whether the value is there.
        Parked: at its end, in a flow, if a hook for a rollback raises: the run waits for a person, and
            ``kapstan flow-run resume`` calls the hook again.
        TransactionRolledBack: an earlier attempt of the flow run has begun to undo it: from the first new task.
    """

    def __init__(
        self,
        key: str | None = None,
        store: KeyStore | None = None,
        *,
        commit_mode: CommitMode | str | None = None,
        isolation_level: IsolationLevel | str | None = None,
        overwrite: bool = False,
        write_on_commit: bool = True,
    ) -> None:
        if key is not None and (not isinstance(cast("Any", key), str) or not key):
            raise ConfigurationError(f"transaction(key={key!r}): give a relative path, such as 'invoices/812'")
        self._mode = _one_of(CommitMode, "commit_mode", commit_mode)
        self._isolation = _one_of(IsolationLevel, "isolation_level", isolation_level)
        if key is None and self._isolation is IsolationLevel.SERIALIZABLE:
            raise ConfigurationError("transaction(isolation_level=SERIALIZABLE): there is nothing to lock; give a key")
        self._key, self._store = key, _key_store(store)
        self._overwrite = _bool("overwrite", overwrite)
        self._write_on_commit = _bool("write_on_commit", write_on_commit)
        self._entered: list[_Entered] = []

    def __enter__(self) -> _Whole:
        txn = self._made()
        try:
            drive(transaction_end.begin(txn))
            return self._begun(txn)
        except BaseException:  # Ctrl-C: nobody would end it
            self._broken_off(txn)
            raise

    def __exit__(self, kind: Any, error: BaseException | None, where: TracebackType | None) -> None:
        txn = self._entered[-1].txn
        try:
            self._left()
            if transaction_end.goes_on_later(error):
                transaction_key.free(txn)
            else:
                to_the_end(lambda: drive(transaction_end.leave(txn, error)))
        except BaseException:
            self._broken_off(txn)
            raise

    async def __aenter__(self) -> _Whole:
        txn = self._made()
        try:
            await adrive(transaction_end.begin(txn))
            return self._begun(txn)
        except BaseException:
            self._broken_off(txn)
            raise

    async def __aexit__(self, kind: Any, error: BaseException | None, where: TracebackType | None) -> None:
        txn = self._entered[-1].txn
        try:
            self._left()
            if transaction_end.goes_on_later(error):
                transaction_key.free(txn)
            else:
                await ato_the_end(adrive(transaction_end.leave(txn, error)))
        except BaseException:
            self._broken_off(txn)
            raise

    def _made(self) -> _Whole:
        parent = transaction_parts.enclosing()
        around = transaction_parts.around(parent)
        isolation = self._isolation or (around.isolation if around else IsolationLevel.READ_COMMITTED)
        if self._key is None:
            return _Whole(parent=parent, commit_mode=self._mode)
        store = self._store or (around.store if around else get_result_store())
        if transaction_parts.is_open(self._key, store, parent):
            raise TransactionError(f"transaction(key={self._key!r}): a transaction around it has this key")
        if isolation is IsolationLevel.SERIALIZABLE and store.lock_manager is None:
            raise ConfigurationError(
                f"transaction(key={self._key!r}, isolation_level=SERIALIZABLE): its store has no lock manager; give "
                "store=ResultStore(lock_manager=...), with one of kapstan.locking"
            )
        keyed = TransactionKey(self._key, store, isolation, self._overwrite, self._write_on_commit)
        return _Whole(name=f"transaction {self._key!r}", parent=parent, commit_mode=self._mode, keyed=keyed)

    def _begun(self, txn: _Whole) -> _Whole:
        self._entered.append(_Entered(txn, transaction_parts.current.set(txn)))
        return txn

    def _left(self) -> None:
        txn, mark = self._entered.pop()
        try:
            transaction_parts.current.reset(mark)
        except ValueError:  # a generator that is closed by other code than began it
            self._let_go(txn)

    def _broken_off(self, txn: _Whole) -> None:
        """An exception ends it where it begins or ends: whoever waits for its lock gets it."""
        self._entered = [entered for entered in self._entered if entered.txn is not txn]
        self._let_go(txn)
        if not txn.is_staged():
            transaction_key.free(txn)

    def _let_go(self, txn: _Whole) -> None:
        if transaction_parts.current.get() is txn:
            transaction_parts.current.set(txn.parent)


atransaction = transaction
"""The same, under the name that asynchronous code may expect."""


def get_transaction() -> Transaction | None:
    """The innermost transaction of this code, None outside of any; in a task its own part."""
    return transaction_parts.current.get()
