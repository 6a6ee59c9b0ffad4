"""A transaction: the tasks that are called in it are committed together, or undone together.

``kapstan.transactions`` is what users import. The step ``transact`` makes each task of a transaction a member of it;
what is due when it ends, the hooks of its members, stands here. In a flow the journal holds what was decided before
the first hook, and each hook is a call with an outcome of its own: an attempt that goes on after a crash runs those
that are left.
"""

from __future__ import annotations

import copy
import enum
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

from kapstan import backend as backends
from kapstan.context import current_flow
from kapstan.engine.pending import Pending
from kapstan.engine.transaction_key import KeyStore, TransactionKey
from kapstan.engine.undoing import Undoable
from kapstan.errors import SerializationError, TransactionError, TransactionRolledBack, ValueTooLarge
from kapstan.ids import RunId, derived_id
from kapstan.states import State

logger = logging.getLogger("kapstan.transactions")
Hook = Callable[["Transaction"], Any]
"""Plain or async; what it returns is ignored."""
IDENTITY = "kapstan:transaction"
"""What stands for the task in the journal's records of a transaction."""
_MISSING = object()
MOST_BYTES = 256 * 1024
"""Most that a task may leave for its hooks, serialised."""


class CommitMode(enum.StrEnum):
    """When a transaction is committed."""

    EAGER = "EAGER"
    """At its own end; a nested one can then no longer be undone by the outer one."""
    LAZY = "LAZY"
    """At the end of the outermost one."""
    OFF = "OFF"
    """Never by itself: what the code does not ``commit()`` is undone at the end."""


class TransactionState(enum.StrEnum):
    PENDING = "PENDING"
    ACTIVE = "ACTIVE"
    STAGED = "STAGED"
    COMMITTED = "COMMITTED"
    ROLLED_BACK = "ROLLED_BACK"


class Due(NamedTuple):
    """A hook that is to be called.

    Attributes:
        of: what it is given.
        label: tells it from the other hooks of ``of``.
    """

    hook: Hook
    of: Transaction
    label: str


class Transaction:
    """What ``with transaction() as txn`` gives, and what hooks are given: the whole, or one task's part in it.

    Attributes:
        run_id: of the task run, of a task's part; else what the transaction is called in its flow run's journal, and ""
            outside a flow.
        parent: the transaction around it.
        children: the parts and transactions in it that were staged, in that order.
        parameters: arguments of the task by name, of a task's part; else empty.
        keyed: what it stands for in a store, None without a key.
        undoable: of a task's part, the key under which the task was committed by this very run; None without one.
        found: its key was committed before its body: what is called in it is no part of it.
        committing: an earlier attempt of the flow run has begun to commit its key.
    """

    def __init__(
        self,
        *,
        run_id: RunId = "",
        name: str = "transaction",
        parent: Transaction | None = None,
        commit_mode: CommitMode | None = None,
        parameters: Callable[[], dict[str, Any]] | None = None,
        keyed: TransactionKey | None = None,
    ) -> None:
        self.run_id = run_id
        self.hooks_of: RunId = ""
        """The transaction that the outcomes of its hooks are named after, "" for itself."""
        self.name = name
        self.parent = parent
        self.commit_mode = commit_mode or (parent.commit_mode if parent is not None else CommitMode.LAZY)
        self.state = TransactionState.PENDING
        self.children: list[Transaction] = []
        self.on_commit_hooks: list[Hook] = []
        self.on_rollback_hooks: list[Hook] = []
        self.doomed = ""
        """Why it can only be rolled back."""
        self.decided = False
        """An earlier attempt of the flow run has begun to: no new task is started in it."""
        self.was_completed = False
        """Of a task's part: an earlier attempt completed it, and its result cannot be had any more."""
        self.in_task = False
        """It ends with the body of a task, whose retry makes its calls anew."""
        self.keyed = keyed
        self.undoable: Undoable | None = None
        self.found = self.committing = False
        self.values: dict[str, Any] = {}
        self._parameters = parameters
        self._result: Callable[[], Any] | None = None
        self._submitted: list[Pending] = []
        self._lock = threading.Lock()

    # ------------------------------------------------------------------ values for the hooks

    def set(self, name: str, value: Any) -> None:
        """Leave a copy of ``value`` for the hooks, and for transactions in this one.

        Raises:
            SerializationError: it cannot be copied; in a flow also where it cannot be serialised.
            ValueTooLarge: in a flow, whose journal keeps it for the hooks of a later attempt.
        """
        try:
            value = copy.deepcopy(value)
        except Exception as error:
            raise SerializationError(f"the value {name!r} cannot be copied for the hooks: {error}") from error
        if current_flow.get() is not None:
            _, body = backends.current().codec.serialise({**self.values, name: value}, f"the value {name!r}")
            if len(body) > MOST_BYTES:
                raise ValueTooLarge(
                    f"with {name!r} the values of this transaction have {len(body):,} bytes; the journal keeps at most "
                    f"{MOST_BYTES:,} for the hooks. Store it yourself and set its key"
                )
        self.values[name] = value

    def get(self, name: str, default: Any = _MISSING) -> Any:
        """A copy of what was set here, or in a transaction around this one.

        Raises:
            ValueError: nothing was, and there is no ``default``.
        """
        where: Transaction | None = self
        while where is not None:
            if name in where.values:
                return copy.deepcopy(where.values[name])
            where = where.parent
        if default is _MISSING:
            raise ValueError(f"nothing was set as {name!r} in this transaction; it has {self._known() or 'no values'}")
        return default

    def _known(self) -> str:
        return ", ".join(sorted(self.values))

    @property
    def parameters(self) -> dict[str, Any]:
        return {} if self._parameters is None else self._parameters()

    @property
    def result(self) -> Any:
        """What the task returned, of a task's part; else None."""
        return None if self._result is None else self._result()

    # ------------------------------------------------------------------ what it holds

    def stage(
        self,
        value: Any = None,
        on_rollback_hooks: Iterable[Hook] | None = None,
        on_commit_hooks: Iterable[Hook] | None = None,
    ) -> None:
        """Add hooks. Those for a rollback are called in reverse order.

        Args:
            value: what ``result`` gives to the hooks.
        """
        if value is not None:
            self._result = lambda: value
        with self._lock:
            self.on_rollback_hooks += on_rollback_hooks or ()
            self.on_commit_hooks += on_commit_hooks or ()

    def add(self, child: Transaction) -> None:
        """``child`` was staged: it shares the fate of this one.

        Raises:
            TransactionError: this one has ended.
        """
        with self._lock:
            if self.state is not TransactionState.ACTIVE:
                raise TransactionError(
                    f"{child.name} ended after the transaction that it was called in, which is {self.state}; wait for "
                    "what you start in a transaction before it ends"
                )
            child.state = TransactionState.STAGED
            self.children.append(child)

    def check_begins(self, name: str) -> None:
        """Raises:
        TransactionError: this one has ended: nothing that is called now could be committed or undone with it.
        """
        if self.state in (TransactionState.COMMITTED, TransactionState.ROLLED_BACK):
            raise TransactionError(f"{name} is called in a transaction that is over: it is {self.state}")

    def check_open(self) -> None:
        """Raises:
        TransactionRolledBack: an earlier attempt has begun to undo this transaction, or one around it.
        """
        where: Transaction | None = self
        while where is not None:
            if where.decided:
                raise TransactionRolledBack(
                    f"an earlier attempt of this run has begun to roll the {where.name} back ({where.doomed}): "
                    "nothing new is started in it"
                )
            where = where.parent

    def begin(self) -> None:
        """Its body begins, or begins again: what was set and staged before is forgotten."""
        with self._lock:
            self.state = TransactionState.ACTIVE
            self.doomed = ""
            self.values, self.children = {}, []
            self.on_commit_hooks, self.on_rollback_hooks = [], []

    def taken(self) -> Transaction:
        """What was staged in the body of a task, as a transaction of its own: it ends with the body."""
        inner = Transaction(run_id=self.run_id and derived_id("inside", self.run_id), name=self.name, parent=self)
        inner.in_task = True
        with self._lock:
            inner.children, self.children = self.children, []
            inner.on_commit_hooks, self.on_commit_hooks = self.on_commit_hooks, []
            inner.on_rollback_hooks, self.on_rollback_hooks = self.on_rollback_hooks, []
        return inner

    def alone(self) -> Transaction:
        """This part as a transaction of its own, since the one that it was called in has ended."""
        own = Transaction(run_id=self.run_id and derived_id("late", self.run_id), name=self.name)
        own.hooks_of = "" if self.parent is None else self.parent.run_id
        self.state = TransactionState.STAGED
        own.children = [self]
        return own

    def returned(self, state: State) -> None:
        """The task returned this."""
        self._result = lambda: state.result(raise_on_failure=False)

    def track(self, pending: Pending) -> None:
        """The transaction does not end before ``pending`` has."""
        with self._lock:
            self._submitted.append(pending)

    @property
    def submitted(self) -> list[Pending]:
        """Calls submitted in it that have not ended."""
        with self._lock:
            self._submitted = [pending for pending in self._submitted if not pending.done]
            return list(self._submitted)

    def due(self, kind: str) -> Iterator[Due]:
        """The hooks to be called, in their order: for a ``commit`` those of the children first, for a ``rollback``
        the last ones first."""
        if self.state in (TransactionState.COMMITTED, TransactionState.ROLLED_BACK):
            return
        hooks = self.on_commit_hooks if kind == "commit" else self.on_rollback_hooks
        own = [Due(hook, self, f"{kind} {number} {_name(hook)}") for number, hook in enumerate(hooks)]
        if kind == "rollback":
            yield from reversed(own)
            for child in reversed(self.children):
                yield from child.due(kind)
        else:
            for child in self.children:
                yield from child.due(kind)
            yield from own

    def members(self) -> Iterator[Transaction]:
        """Itself, and all that is staged in it."""
        yield self
        for child in self.children:
            yield from child.members()

    def ended(self, state: TransactionState) -> None:
        """It, and what is in it, is over."""
        for member in self.members():
            if member.state is not TransactionState.COMMITTED:
                member.state = state

    # ------------------------------------------------------------------ states

    def is_pending(self) -> bool:
        return self.state is TransactionState.PENDING

    def is_active(self) -> bool:
        return self.state is TransactionState.ACTIVE

    def is_staged(self) -> bool:
        return self.state is TransactionState.STAGED

    def is_committed(self) -> bool:
        return self.state is TransactionState.COMMITTED

    def is_rolled_back(self) -> bool:
        return self.state is TransactionState.ROLLED_BACK

    def __repr__(self) -> str:
        return f"<Transaction {self.name} {self.state}>"


def _name(hook: Hook) -> str:
    return getattr(hook, "__qualname__", type(hook).__qualname__)


current: ContextVar[Transaction | None] = ContextVar("kapstan_transaction", default=None)
"""The innermost transaction of this code: in a task that is a member, its part."""


def enclosing() -> Transaction | None:
    """The transaction that a call made here is a part of."""
    txn = current.get()
    while txn is not None and txn.found:
        txn = txn.parent
    return txn


def around(txn: Transaction | None) -> TransactionKey | None:
    """The key of ``txn``, or of the nearest one around it that has one."""
    while txn is not None and txn.keyed is None:
        txn = txn.parent
    return None if txn is None else txn.keyed


def is_open(key: str, store: KeyStore, txn: Transaction | None) -> bool:
    """Whether ``txn``, or one around it, has this key."""
    while txn is not None:
        if txn.keyed is not None and (txn.keyed.key, txn.keyed.store) == (key, store):
            return True
        txn = txn.parent
    return False
