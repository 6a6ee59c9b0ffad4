"""Effects in a database that happen exactly once: the key of the work is written in the same transaction as the work.

``inbox`` is for tasks of the class ``transactional``, and for any other code that may be told to do something twice::

    with kapstan.effects.inbox(connection) as entry:
        if not entry.is_repeat:
            connection.execute("UPDATE account SET balance = balance - %s WHERE id = %s", (amount, account))
            entry.result = {"charged": amount}
    return entry.result

Works with connections of sqlite3 and psycopg (also asyncio: ``async with``). See docs/effects.md.
"""

from __future__ import annotations

import json
import os
import sys
import weakref
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, Literal

from kapstan import runtime
from kapstan.errors import ConfigurationError, HalfDone, MissingContextError
from kapstan.inbox_table import ALONE, SAVEPOINT, TABLE, Statements, check_key, create, explained, kind_of, to_text

__all__ = ["Entry", "HalfDone", "acreate_inbox", "create_inbox", "inbox"]

_open: weakref.WeakSet[Inbox] = weakref.WeakSet()
"""Blocks that have begun and not ended."""


class Entry:
    """What ``inbox`` gives.

    Attributes:
        key: the idempotency key.
        token: the fencing token of this run; 0 outside of one. Kept with the key, for people.
        is_repeat: the work of this key was done before. Whatever this block does in the database is undone at its end.
        result: of a repeat, what was stored; else None until the block sets it: a value that JSON gives back as it is.
    """

    def __init__(self, key: str, token: int) -> None:
        self.key = key
        self.token = token
        self.is_repeat = False
        self.result: Any = None
        self.stored = ""  # the result of an earlier block, as JSON


class Inbox(AbstractContextManager[Entry, Literal[False]], AbstractAsyncContextManager[Entry, Literal[False]]):
    """See ``inbox``."""

    def __init__(self, connection: Any, entry: Entry, table: str) -> None:
        self._connection = connection
        self._entry = entry
        self._table = table
        self._kind = kind_of(connection)
        self._statements = Statements(self._kind, table)
        self._transaction: Any = None
        self._began: tuple[str, ...] = ()  # what tells the transaction from a later one
        self._own = self._saved = False
        self._process = os.getpid()

    def __enter__(self) -> Entry:
        if self._kind == "async postgres":
            raise ConfigurationError("inbox: this connection is psycopg's asyncio one: write `async with`")
        if self._kind == "postgres":
            self._begin_there()
        try:
            if self._kind == "sqlite":
                self._begin_here()
            inserted = self._execute(self._statements.insert, (self._entry.key, self._entry.token))
            if inserted.rowcount:
                self._note(inserted.fetchone() if self._statements.began else ())
            else:
                self._repeat(self._execute(self._statements.find, (self._entry.key,)).fetchone())
        except BaseException as error:
            self._end(False)
            raise explained(error, self._table) from error
        _open.add(self)
        return self._entry

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        if self._is_elsewhere(error):
            return False
        done = False
        try:
            if error is None and self._entry.is_repeat:
                self._check_whole()
                if self._may_ask and self._execute(self._statements.began, ()).fetchone() != self._began:
                    raise self._half_done()
            elif error is None:
                text = to_text(self._entry.result)
                self._check_whole()
                if self._execute(self._statements.finish, (text, self._entry.key, *self._began)).rowcount != 1:
                    raise self._half_done()
                done = True
        finally:
            _open.discard(self)
            self._end(done)
            _restore(self._entry)
        return False

    async def __aenter__(self) -> Entry:
        if self._kind != "async postgres":
            raise ConfigurationError("inbox: this connection is not psycopg's asyncio one: write `with`")
        self._refuse_a_pipeline()
        psycopg: Any = sys.modules["psycopg"]
        self._transaction = psycopg.AsyncTransaction(self._connection)
        await self._transaction.__aenter__()
        try:
            inserted = await self._aexecute(self._statements.insert, (self._entry.key, self._entry.token))
            if inserted.rowcount:
                self._note(await inserted.fetchone())
            else:
                found = await self._aexecute(self._statements.find, (self._entry.key,))
                self._repeat(await found.fetchone())
        except BaseException as error:
            await self._aend(False)
            raise explained(error, self._table) from error
        _open.add(self)
        return self._entry

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        if self._is_elsewhere(error):
            return False
        done = False
        try:
            if error is None and self._entry.is_repeat:
                if self._may_ask and await (await self._aexecute(self._statements.began, ())).fetchone() != self._began:
                    raise self._half_done()
            elif error is None:
                values = (to_text(self._entry.result), self._entry.key, *self._began)
                if (await self._aexecute(self._statements.finish, values)).rowcount != 1:
                    raise self._half_done()
                done = True
        finally:
            _open.discard(self)
            await self._aend(done)
            _restore(self._entry)
        return False

    # ------------------------------------------------------------------ what became of the key

    def _note(self, began: Any) -> None:
        self._began = tuple(began)

    def _repeat(self, row: Any) -> None:
        entry = self._entry
        if row is None or row[0] is None:
            if any(each._is_of(self._connection, self._table, entry.key) for each in list(_open)):
                raise ConfigurationError(
                    f"inbox: a block of the key {entry.key!r} is open on this connection: one block does the work of a "
                    "key. Give further work a key of its own"
                )
            raise HalfDone(
                f"inbox: the key {entry.key!r} is there without a result: an earlier block committed in its middle. "
                "Look at its effects, then delete the row or store a result (JSON) in it"
            )
        entry.is_repeat = True
        entry.stored = row[0]
        entry.result = json.loads(entry.stored)
        self._note(row[1:])

    @property
    def _may_ask(self) -> bool:
        """Whether the transaction says when it began: PostgreSQL's, unless it failed, which commits nothing."""
        return bool(self._began) and self._connection.info.transaction_status.name != "INERROR"

    def _is_of(self, connection: Any, table: str, key: str) -> bool:
        return self._connection is connection and (self._table, self._entry.key) == (table, key)

    def _half_done(self) -> HalfDone:
        what = "committed or rolled back by itself; leave the end of the transaction to inbox"
        if self._entry.is_repeat:
            what += ". It was a repeat: what it did in the database may be there a second time"
        return HalfDone(f"inbox: the block of key {self._entry.key!r} {what}")

    def _is_elsewhere(self, error: BaseException | None) -> bool:
        """Whether this is a process that was forked in the block: the transaction is its parent's, and left alone."""
        if os.getpid() == self._process:
            return False
        if error is None:
            raise ConfigurationError(
                f"inbox: this process was forked in the block of key {self._entry.key!r}, which only the process that "
                "began it can end; leave a fork with os._exit, or fork before the block"
            )
        return True

    # ------------------------------------------------------------------ the transaction

    def _begin_there(self) -> None:
        """A transaction of our own where there is none, else a part of the one that is there."""
        self._refuse_a_pipeline()
        psycopg: Any = sys.modules["psycopg"]  # whose connection this is
        # Not connection.transaction(), a generator: a forked process that lets go of it would end the transaction.
        self._transaction = psycopg.Transaction(self._connection)
        self._transaction.__enter__()

    def _begin_here(self) -> None:
        """The same for SQLite."""
        self._own = not self._connection.in_transaction
        if self._own:
            self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute(f"SAVEPOINT {SAVEPOINT}")
        self._saved = True

    def _check_whole(self) -> None:
        """The transaction that the block began in is still there, with its savepoint."""
        if self._kind == "sqlite":
            try:
                self._connection.execute(f"RELEASE {SAVEPOINT}")
                self._connection.execute(f"SAVEPOINT {SAVEPOINT}")
            except Exception as error:
                raise self._half_done() from error

    def _end(self, keep: bool) -> None:
        if self._kind == "postgres":
            if keep:
                self._transaction.__exit__(None, None, None)
            else:
                _undo(self._transaction)
            return
        if not self._connection.in_transaction:
            return  # the block ended it
        if not self._own:
            if self._saved and not keep:
                self._connection.execute(f"ROLLBACK TO {SAVEPOINT}")
            if self._saved:
                self._connection.execute(f"RELEASE {SAVEPOINT}")
            return
        # By statements: commit() and rollback() of sqlite3 do nothing where the connection has autocommit=True (3.12).
        try:
            self._connection.execute("COMMIT" if keep else "ROLLBACK")
        except BaseException:
            if self._connection.in_transaction:  # somebody reads, or the disk is full: nothing of the block stays
                self._connection.execute("ROLLBACK")
            raise

    def _refuse_a_pipeline(self) -> None:
        if self._connection.info.pipeline_status:
            raise ConfigurationError(
                "inbox: this connection is in pipeline mode, in which nobody knows yet whether a key is new"
            )

    async def _aend(self, keep: bool) -> None:
        if keep:
            await self._transaction.__aexit__(None, None, None)
            return
        undo = _Undo()
        await self._transaction.__aexit__(_Undo, undo, None)

    def _execute(self, statement: str, values: tuple[object, ...]) -> Any:
        """On a cursor that gives tuples, whatever the connection's rows and placeholders are."""
        cursor: Any
        if self._kind == "sqlite":
            import sqlite3

            cursor = self._connection.cursor(sqlite3.Cursor)
            cursor.row_factory = None
        else:
            psycopg: Any = sys.modules["psycopg"]
            cursor = psycopg.Cursor(self._connection, row_factory=psycopg.rows.tuple_row)
        cursor.execute(statement, values)
        return cursor

    async def _aexecute(self, statement: str, values: tuple[object, ...]) -> Any:
        psycopg: Any = sys.modules["psycopg"]
        cursor: Any = psycopg.AsyncCursor(self._connection, row_factory=psycopg.rows.tuple_row)
        await cursor.execute(statement, values)
        return cursor


def inbox(connection: Any, *, key: str | None = None, table: str = TABLE) -> Inbox:
    """Do the work of a ``with`` block once for each key, in a transaction of ``connection``.

    The key is inserted first: that it is unique decides, so a second block with the same key waits until the first has
    committed or rolled back. When the block ends its result is stored and the transaction committed; if it raises,
    everything is rolled back, the key too. If the connection is in a transaction already, the block is a part of that
    one (a savepoint), and counts when you commit it. ``create_inbox`` makes the table.

    Args:
        connection: of sqlite3 or psycopg. The work must go over this very connection, and not commit by itself.
        key: None: the idempotency key of the task run that this is called in.
        table: another name than ``kapstan_inbox``.

    Raises:
        HalfDone: an earlier block of this key was committed in the middle; whether all of it is there is unknown.
        MissingContextError: no key was given, and this is no task run that has one.
        SerializationError: the result is nothing that JSON gives back as it is; the block is rolled back.
        ConfigurationError: an unknown kind of connection, or the table is not there.
    """
    run: Any = runtime.task_run
    if key is None:
        key = getattr(run, "idempotency_key", None)
        if key is None:
            raise MissingContextError("inbox: give key=, or call it in a task run that has an idempotency key")
    check_key(key)
    return Inbox(connection, Entry(key, int(getattr(run, "fencing_token", None) or 0)), table)


def create_inbox(connection: Any, *, table: str = TABLE) -> None:
    """Make the table of ``inbox`` if it is not there, in the connection's transaction, if it is in one."""
    kind = kind_of(connection)
    if kind == "async postgres":
        raise ConfigurationError("create_inbox: this connection is psycopg's asyncio one: use acreate_inbox")
    statement = create(kind, table)
    if kind == "sqlite":
        own = not connection.in_transaction
        connection.execute(statement)
        if own and connection.in_transaction:
            connection.commit()
        return
    with connection.transaction():
        connection.execute(ALONE)
        connection.execute(statement)


async def acreate_inbox(connection: Any, *, table: str = TABLE) -> None:
    """As ``create_inbox``, for psycopg's asyncio connections."""
    kind = kind_of(connection)
    if kind != "async postgres":
        raise ConfigurationError("acreate_inbox: give a psycopg.AsyncConnection")
    async with connection.transaction():
        await connection.execute(ALONE)
        await connection.execute(create(kind, table))


class _Undo(Exception):
    """Makes psycopg roll a transaction back."""


def _undo(transaction: Any) -> None:
    undo = _Undo()
    transaction.__exit__(_Undo, undo, None)


def _restore(entry: Entry) -> None:
    """What a repeat gives is what was stored, whatever its block has set."""
    if entry.is_repeat:
        entry.result = json.loads(entry.stored)
