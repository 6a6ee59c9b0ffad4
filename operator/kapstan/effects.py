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
import re
import sys
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, Literal

from kapstan import runtime
from kapstan.errors import ConfigurationError, HalfDone, MissingContextError, SerializationError

__all__ = ["Entry", "HalfDone", "acreate_inbox", "create_inbox", "inbox"]

TABLE = "kapstan_inbox"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")
_CREATE = {
    "sqlite": """CREATE TABLE IF NOT EXISTS {table} (key TEXT PRIMARY KEY, token INTEGER NOT NULL, result TEXT,
        at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)""",
    "postgres": """CREATE TABLE IF NOT EXISTS {table} (key text PRIMARY KEY, token bigint NOT NULL, result text,
        at timestamptz NOT NULL DEFAULT now())""",
}
_INSERT = "INSERT INTO {table} (key, token) VALUES ({mark}, {mark}) ON CONFLICT (key) DO NOTHING"
_RESULT = "SELECT result FROM {table} WHERE key = {mark}"
_FINISH = "UPDATE {table} SET result = {mark} WHERE key = {mark} AND result IS NULL"
_SAVEPOINT = "kapstan_inbox_entry"


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
        self._kind = _kind_of(connection)
        self._words = {"table": _checked(table), "mark": "?" if self._kind == "sqlite" else "%s"}
        self._transaction: Any = None
        self._own = False

    def __enter__(self) -> Entry:
        if self._kind == "async postgres":
            raise ConfigurationError("inbox: this connection is psycopg's asyncio one: write `async with`")
        self._begin()
        try:
            inserted = self._execute(_INSERT, (self._entry.key, self._entry.token)).rowcount
            if not inserted:
                _repeat(self._entry, self._execute(_RESULT, (self._entry.key,)).fetchone())
        except BaseException as error:
            self._end(False)
            raise _explained(error, self._words["table"]) from error
        return self._entry

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        entry = self._entry
        done = False
        try:
            if error is None and not entry.is_repeat:
                text = _to_text(entry.result)
                self._check_whole()
                if self._execute(_FINISH, (text, entry.key)).rowcount != 1:
                    raise HalfDone(_ENDED_INSIDE.format(key=entry.key))
                done = True
        finally:
            self._end(done)
            _restore(entry)
        return False

    async def __aenter__(self) -> Entry:
        if self._kind != "async postgres":
            raise ConfigurationError("inbox: this connection is not psycopg's asyncio one: write `with`")
        self._refuse_a_pipeline()
        self._transaction = self._connection.transaction()
        await self._transaction.__aenter__()
        try:
            inserted = await self._aexecute(_INSERT, (self._entry.key, self._entry.token))
            if not inserted.rowcount:
                found = await self._aexecute(_RESULT, (self._entry.key,))
                _repeat(self._entry, await found.fetchone())
        except BaseException as error:
            await self._aend(False)
            raise _explained(error, self._words["table"]) from error
        return self._entry

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        entry = self._entry
        done = False
        try:
            if error is None and not entry.is_repeat:
                finished = await self._aexecute(_FINISH, (_to_text(entry.result), entry.key))
                if finished.rowcount != 1:
                    raise HalfDone(_ENDED_INSIDE.format(key=entry.key))
                done = True
        finally:
            await self._aend(done)
            _restore(entry)
        return False

    # ------------------------------------------------------------------ the transaction

    def _begin(self) -> None:
        """A transaction of our own where there is none, else a part of the one that is there."""
        if self._kind == "postgres":
            self._refuse_a_pipeline()
            self._transaction = self._connection.transaction()
            self._transaction.__enter__()
            return
        self._own = not self._connection.in_transaction
        if self._own:
            self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute(f"SAVEPOINT {_SAVEPOINT}")

    def _check_whole(self) -> None:
        """The transaction that the block began in is still there, with its savepoint. (psycopg refuses to end it.)"""
        if self._kind == "sqlite":
            try:
                self._connection.execute(f"RELEASE {_SAVEPOINT}")
                self._connection.execute(f"SAVEPOINT {_SAVEPOINT}")
            except Exception as error:
                raise HalfDone(_ENDED_INSIDE.format(key=self._entry.key)) from error

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
            if not keep:
                self._connection.execute(f"ROLLBACK TO {_SAVEPOINT}")
            self._connection.execute(f"RELEASE {_SAVEPOINT}")
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
            psycopg: Any = sys.modules["psycopg"]  # whose connection this is
            cursor = psycopg.Cursor(self._connection, row_factory=psycopg.rows.tuple_row)
        cursor.execute(statement.format(**self._words), values)
        return cursor

    async def _aexecute(self, statement: str, values: tuple[object, ...]) -> Any:
        psycopg: Any = sys.modules["psycopg"]
        cursor: Any = psycopg.AsyncCursor(self._connection, row_factory=psycopg.rows.tuple_row)
        await cursor.execute(statement.format(**self._words), values)
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
    if not isinstance(key, str) or not key:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"inbox: key={key!r}: give a text of at least one character")
    return Inbox(connection, Entry(key, int(getattr(run, "fencing_token", None) or 0)), table)


def create_inbox(connection: Any, *, table: str = TABLE) -> None:
    """Make the table of ``inbox`` if it is not there, in the connection's transaction, if it is in one."""
    kind = _kind_of(connection)
    if kind == "async postgres":
        raise ConfigurationError("create_inbox: this connection is psycopg's asyncio one: use acreate_inbox")
    statement = _CREATE[kind].format(table=_checked(table))
    if kind == "sqlite":
        own = not connection.in_transaction
        connection.execute(statement)
        if own and connection.in_transaction:
            connection.commit()
        return
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(7091606191625564526)")  # two at once would collide
        connection.execute(statement)


async def acreate_inbox(connection: Any, *, table: str = TABLE) -> None:
    """As ``create_inbox``, for psycopg's asyncio connections."""
    if _kind_of(connection) != "async postgres":
        raise ConfigurationError("acreate_inbox: give a psycopg.AsyncConnection")
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(7091606191625564526)")
        await connection.execute(_CREATE["postgres"].format(table=_checked(table)))


_ENDED_INSIDE = (
    "inbox: the block of key {key!r} committed or rolled back by itself; leave the end of the transaction to inbox"
)


class _Undo(Exception):
    """Makes psycopg roll a transaction back."""


def _undo(transaction: Any) -> None:
    undo = _Undo()
    transaction.__exit__(_Undo, undo, None)


def _kind_of(connection: object) -> Literal["sqlite", "postgres", "async postgres"]:
    for cls in type(connection).__mro__:
        package = cls.__module__.partition(".")[0]
        if package == "sqlite3" and cls.__name__ == "Connection":
            return "sqlite"
        if package == "psycopg" and cls.__name__ in ("Connection", "AsyncConnection"):
            return "postgres" if cls.__name__ == "Connection" else "async postgres"
    raise ConfigurationError(f"inbox: {type(connection).__qualname__} is no connection of sqlite3 or psycopg")


def _checked(table: str) -> str:
    if not _NAME.fullmatch(table):
        raise ConfigurationError(f"inbox: table={table!r}: give a plain name, or schema.name")
    return table


def _repeat(entry: Entry, row: Any) -> None:
    if row is None or row[0] is None:
        raise HalfDone(
            f"inbox: the key {entry.key!r} is there without a result: an earlier block committed in its middle. Look "
            "at its effects, then delete the row or store a result (JSON) in it"
        )
    entry.is_repeat = True
    entry.stored = row[0]
    entry.result = json.loads(entry.stored)


def _restore(entry: Entry) -> None:
    """What a repeat gives is what was stored, whatever its block has set."""
    if entry.is_repeat:
        entry.result = json.loads(entry.stored)


def _to_text(result: object) -> str:
    try:
        text = json.dumps(result, allow_nan=False)
        same = json.loads(text) == result
    except (TypeError, ValueError) as error:
        raise SerializationError(f"inbox: the result cannot be stored as JSON: {error}") from None
    if not same:
        raise SerializationError(
            f"inbox: JSON does not give back {type(result).__name__} as it is (tuples, keys that are no text): store "
            "lists and dicts of texts and numbers"
        )
    return text


def _explained(error: BaseException, table: str) -> BaseException:
    if "no such table" in str(error) or getattr(error, "sqlstate", None) == "42P01":
        return ConfigurationError(
            f"inbox: there is no table {table}: call kapstan.effects.create_inbox(connection) once"
        )
    return error
