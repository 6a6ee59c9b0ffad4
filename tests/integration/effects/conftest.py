"""A database of each kind, with an inbox and a ledger of effects."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.servers.postgres import postgres as postgres

from kapstan import effects


class Database:
    """Connections to one database; ``place`` is what a further process needs."""

    def __init__(self, kind: str, place: str) -> None:
        self.kind = kind
        self.place = place
        self._open: list[Any] = []
        with self.connect() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS ledger (key TEXT, amount INTEGER)")
            connection.execute("DELETE FROM ledger")
            effects.create_inbox(connection)
            connection.execute("DELETE FROM kapstan_inbox")

    def connect(self) -> Any:
        self._open.append(connect(self.kind, self.place))
        return self._open[-1]

    def charges(self, key: str) -> int:
        """How often ``key`` was charged, as another connection sees it."""
        connection = self.connect()
        mark = "?" if self.kind == "sqlite" else "%s"
        (count,) = connection.execute(f"SELECT count(*) FROM ledger WHERE key = {mark}", (key,)).fetchone()
        connection.rollback()
        return count

    def close(self) -> None:
        for connection in self._open:
            connection.close()


def connect(kind: str, place: str) -> Any:
    if kind == "sqlite":
        return sqlite3.connect(place, timeout=30, check_same_thread=False)
    return psycopg.connect(place)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    place = str(tmp_path / "database") if request.param == "sqlite" else request.getfixturevalue("postgres").dsn
    made = Database(request.param, place)
    yield made
    made.close()
