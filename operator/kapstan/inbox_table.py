"""The table of ``effects.inbox`` and every statement about it, for each kind of database."""

from __future__ import annotations

import json
import re
from typing import Literal

from kapstan.errors import ConfigurationError, SerializationError

Kind = Literal["sqlite", "postgres", "async postgres"]

TABLE = "kapstan_inbox"
SAVEPOINT = "kapstan_inbox_entry"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")
_CREATE = {
    "sqlite": """CREATE TABLE IF NOT EXISTS {table} (key TEXT PRIMARY KEY, token INTEGER NOT NULL, result TEXT,
        at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)""",
    "postgres": """CREATE TABLE IF NOT EXISTS {table} (key text PRIMARY KEY, token bigint NOT NULL, result text,
        at timestamptz NOT NULL DEFAULT now())""",
}
ALONE = "SELECT pg_advisory_xact_lock(7091606191625564526)"
"""Two that create the table at once would collide."""
_INSERT = "INSERT INTO {table} (key, token) VALUES ({mark}, {mark}) ON CONFLICT (key) DO NOTHING"
_FIND = "SELECT result{began} FROM {table} WHERE key = {mark}"
_FINISH = "UPDATE {table} SET result = {mark} WHERE key = {mark} AND result IS NULL"
_BEGAN = "extract(epoch FROM now())::text"  # of PostgreSQL's transactions: another one has another moment


class Statements:
    """For one table of one kind of database.

    Attributes:
        insert: of key and token; no row is changed where the key is there already.
        find: the result of a key.
        finish: of result and key; one row is changed if it is this block's.
        began: what tells the transaction from a later one; empty for SQLite, whose savepoint does.
    """

    def __init__(self, kind: Kind, table: str) -> None:
        words = {"table": checked(table), "mark": "?" if kind == "sqlite" else "%s"}
        self.insert = (_INSERT + ("" if kind == "sqlite" else f" RETURNING {_BEGAN}")).format(**words)
        self.find = _FIND.format(began="" if kind == "sqlite" else f", {_BEGAN}", **words)
        self.finish = (_FINISH + ("" if kind == "sqlite" else f" AND {_BEGAN} = {{mark}}")).format(**words)
        self.began = "" if kind == "sqlite" else f"SELECT {_BEGAN}"


def create(kind: Kind, table: str) -> str:
    return _CREATE["sqlite" if kind == "sqlite" else "postgres"].format(table=checked(table))


def kind_of(connection: object) -> Kind:
    """Raises:
    ConfigurationError: it is none that an inbox works with.
    """
    for cls in type(connection).__mro__:
        package = cls.__module__.partition(".")[0]
        if package == "sqlite3" and cls.__name__ == "Connection":
            return "sqlite"
        if package == "psycopg" and cls.__name__ in ("Connection", "AsyncConnection"):
            return "postgres" if cls.__name__ == "Connection" else "async postgres"
    raise ConfigurationError(f"inbox: {type(connection).__qualname__} is no connection of sqlite3 or psycopg")


def checked(table: str) -> str:
    """Raises:
    ConfigurationError: no plain name.
    """
    if not isinstance(table, str) or not _NAME.fullmatch(table):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"inbox: table={table!r}: give a plain name, or schema.name")
    return table


def check_key(key: object) -> None:
    """Raises:
    ConfigurationError: no text that every database takes.
    """
    if not isinstance(key, str) or not key or "\0" in key or not _is_unicode(key):
        raise ConfigurationError(
            f"inbox: key={key!r}: give a text of at least one character, without NUL and lone surrogates"
        )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def to_text(result: object) -> str:
    """Raises:
    SerializationError: JSON does not give it back as it is.
    """
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


def explained(error: BaseException, table: str) -> BaseException:
    """What to do about ``error``, where that is known."""
    if "no such table" in str(error) or getattr(error, "sqlstate", None) == "42P01":
        return ConfigurationError(
            f"inbox: there is no table {table}: call kapstan.effects.create_inbox(connection) once"
        )
    return error
