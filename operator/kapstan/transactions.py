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

from contextvars import Token
from types import TracebackType
from typing import Any

from kapstan.engine import transaction as transaction_parts
from kapstan.engine import transaction_end
from kapstan.engine.operations import adrive, drive
from kapstan.engine.steps import hooks
from kapstan.engine.to_the_end import ato_the_end, to_the_end
from kapstan.engine.transaction import CommitMode, Hook, IsolationLevel, Transaction, TransactionState
from kapstan.errors import ConfigurationError, TransactionError

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

    def _check_active(self) -> None:
        if not self.is_active():
            raise TransactionError(f"the transaction is {self.state}: it is over")


class transaction:  # noqa: N801  (used as a function, as Prefect's)
    """Context manager, for ``with`` and ``async with``: the tasks that are called in it are parts of one transaction.

    At its end, what they staged is committed: their ``on_commit`` hooks are called. If its body raises, what has
    completed is undone: their ``on_rollback`` hooks are called, the last one first, and the exception goes on. In a
    flow both are journalled: after a crash the next attempt calls the hooks that are left, each once.

    Args:
        commit_mode: when it is committed; default: as the transaction around it, else LAZY (at the end of the outermost
            one).

    Raises:
        ConfigurationError: ``commit_mode`` is none.
        Parked: at its end, in a flow, if a hook for a rollback raises: the run waits for a person, and
            ``kapstan flow-run resume`` calls the hook again.
        TransactionRolledBack: an earlier attempt of the flow run has begun to undo it: from the first new task.
    """

    def __init__(self, *, commit_mode: CommitMode | str | None = None) -> None:
        try:
            self._mode = None if commit_mode is None else CommitMode(commit_mode)
        except ValueError:
            raise ConfigurationError(
                f"transaction(commit_mode={commit_mode!r}): give one of {', '.join(CommitMode)}"
            ) from None
        self._entered: list[tuple[_Whole, Token[Transaction | None]]] = []

    def __enter__(self) -> _Whole:
        txn = _Whole(parent=transaction_parts.current.get(), commit_mode=self._mode)
        transaction_end.begin(txn)
        self._entered.append((txn, transaction_parts.current.set(txn)))
        return txn

    def __exit__(self, kind: Any, error: BaseException | None, where: TracebackType | None) -> None:
        txn = self._left()
        if not transaction_end.goes_on_later(error):
            to_the_end(lambda: drive(transaction_end.leave(txn, error)))

    async def __aenter__(self) -> _Whole:
        return self.__enter__()

    async def __aexit__(self, kind: Any, error: BaseException | None, where: TracebackType | None) -> None:
        txn = self._left()
        if not transaction_end.goes_on_later(error):
            await ato_the_end(adrive(transaction_end.leave(txn, error)))

    def _left(self) -> _Whole:
        txn, mark = self._entered.pop()
        transaction_parts.current.reset(mark)
        return txn


atransaction = transaction
"""The same, under the name that asynchronous code may expect."""


def get_transaction() -> Transaction | None:
    """The innermost transaction of this code, None outside of any; in a task its own part."""
    return transaction_parts.current.get()
