"""``effects.inbox``: the work of a key is done once, whatever happens around its transaction."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.integration.effects.conftest import Database
from tests.integration.effects.killed import charge, work
from tests.servers.postgres import PostgresServer
from tests.servers.tcp_relay import TcpRelay

from kapstan import effects
from kapstan.errors import ConfigurationError, HalfDone, MissingContextError, SerializationError

REPOSITORY = Path(__file__).resolve().parents[3]


def mark(database: Database) -> str:
    return "?" if database.kind == "sqlite" else "%s"


def test_a_repeat_does_nothing_and_gives_what_was_stored(database: Database) -> None:
    connection = database.connect()
    first = charge(connection, mark(database), "k")
    assert charge(connection, mark(database), "k") == first == {"charged": 100, "by": "k"}
    assert database.charges("k") == 1


def test_a_block_that_does_not_ask_whether_it_is_a_repeat_is_undone(database: Database) -> None:
    connection = database.connect()
    for number in range(2):
        with effects.inbox(connection, key="k") as entry:
            connection.execute("INSERT INTO ledger VALUES ('k', 1)")
            entry.result = number
        assert (entry.is_repeat, entry.result) == (number == 1, 0)
    assert database.charges("k") == 1


def test_a_block_that_raises_leaves_no_key(database: Database) -> None:
    connection = database.connect()

    def fails() -> None:
        with effects.inbox(connection, key="k"):
            connection.execute("INSERT INTO ledger VALUES ('k', 1)")
            raise LookupError("no such account")

    with pytest.raises(LookupError):
        fails()
    assert database.charges("k") == 0
    assert charge(connection, mark(database), "k")["charged"] == 100


def test_inside_a_transaction_of_the_users_it_counts_when_that_commits(database: Database) -> None:
    connection = database.connect()
    connection.execute("INSERT INTO ledger VALUES ('before', 1)")
    charge(connection, mark(database), "k")
    assert database.charges("k") == 0
    connection.rollback()
    assert (database.charges("k"), database.charges("before")) == (0, 0)
    connection.execute("INSERT INTO ledger VALUES ('before', 1)")
    charge(connection, mark(database), "k")
    assert charge(connection, mark(database), "k") == {"charged": 100, "by": "k"}  # within the same transaction
    connection.commit()
    assert (database.charges("k"), database.charges("before")) == (1, 1)


def test_a_failed_block_leaves_the_users_transaction_as_it_was(database: Database) -> None:
    connection = database.connect()
    connection.execute("INSERT INTO ledger VALUES ('before', 1)")

    def fails() -> None:
        with effects.inbox(connection, key="k"):
            connection.execute("INSERT INTO ledger VALUES ('k', 1)")
            raise LookupError

    with pytest.raises(LookupError):
        fails()
    connection.commit()
    assert (database.charges("k"), database.charges("before")) == (0, 1)


def test_many_at_once_do_it_once(database: Database) -> None:
    together = threading.Barrier(8)

    def one(_: int) -> Any:
        together.wait()
        return work(database.kind, database.place, "k")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(8))) == [{"charged": 100, "by": "k"}] * 8
    assert database.charges("k") == 1


@pytest.mark.timeout(300)
def test_killed_at_every_point_it_is_done_once(database: Database) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.effects.killed", database.kind, database.place],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY / 'operator'}:{REPOSITORY}"},
        capture_output=True,
        text=True,
    )
    print(done.stdout)
    found = re.search(r"points=(\d+) killed=(\d+) done_before_the_kill=(\d+) wrong=(\d+)", done.stdout)
    assert found is not None, done.stderr
    points, killed, before, wrong = map(int, found.groups())
    assert wrong == 0
    assert killed == points > 40
    assert 0 < before < points  # some were killed before the commit, some after it


@pytest.mark.parametrize("reply", range(1, 9))
def test_a_lost_reply_of_the_server_is_no_second_effect(postgres: PostgresServer, reply: int) -> None:
    database = Database("postgres", postgres.dsn)
    key = f"lost-{reply}"
    try:
        with TcpRelay(postgres.port) as relay:
            connection = psycopg.connect(f"host=127.0.0.1 port={relay.port} dbname=postgres user=kapstan")
            relay.lose_reply(reply)
            try:
                charge(connection, "%s", key)
            except psycopg.OperationalError:
                assert relay.lost.is_set()
            connection.close()
        assert charge(database.connect(), "%s", key)["charged"] == 100
        assert database.charges(key) == 1
    finally:
        database.close()


@pytest.mark.parametrize("result", [(1, 2), {1: "a"}, float("nan"), object()])
def test_a_result_that_json_would_change_is_refused_and_nothing_is_done(database: Database, result: object) -> None:
    connection = database.connect()

    def block() -> None:
        with effects.inbox(connection, key="k") as entry:
            connection.execute("INSERT INTO ledger VALUES ('k', 1)")
            entry.result = result

    with pytest.raises(SerializationError, match="JSON"):
        block()
    assert database.charges("k") == 0


def test_a_block_that_commits_by_itself_is_told(tmp_path: Path) -> None:
    database = Database("sqlite", str(tmp_path / "database"))
    connection = database.connect()

    def block() -> None:
        with effects.inbox(connection, key="k"):
            connection.commit()

    with pytest.raises(HalfDone, match="committed or rolled back by itself"):
        block()
    with pytest.raises(HalfDone, match="without a result"):
        charge(connection, "?", "k")
    database.close()


def test_what_cannot_work_is_said(tmp_path: Path) -> None:
    bare = sqlite3.connect(tmp_path / "bare")
    with pytest.raises(ConfigurationError, match=r"create_inbox\(connection\)"), effects.inbox(bare, key="k"):
        pass
    with pytest.raises(ConfigurationError, match="object is no connection of sqlite3 or psycopg"):
        effects.inbox(object(), key="k")
    keys: list[Any] = ["", 5, b"k", "a\0b", "\ud800"]
    for key in keys:
        with pytest.raises(ConfigurationError, match=r"key=.*: give a text of at least one character, without NUL"):
            effects.inbox(bare, key=key)
    tables: list[Any] = ["x; DROP TABLE y", "", 5, None]
    for table in tables:
        with pytest.raises(ConfigurationError, match=r"table=.*: give a plain name"):
            effects.inbox(bare, key="k", table=table)
    with pytest.raises(MissingContextError, match="give key="):
        effects.inbox(bare)
    bare.close()


def test_asyncio(postgres: PostgresServer) -> None:
    async def one(key: str) -> Any:
        async with await psycopg.AsyncConnection.connect(postgres.dsn) as connection:
            async with effects.inbox(connection, key=key) as entry:
                if not entry.is_repeat:
                    await connection.execute("INSERT INTO ledger VALUES (%s, 100)", (key,))
                    entry.result = {"by": key}
            return entry.result

    async def main() -> list[Any]:
        async with await psycopg.AsyncConnection.connect(postgres.dsn) as connection:
            await effects.acreate_inbox(connection)
            with pytest.raises(ConfigurationError, match="async with"), effects.inbox(connection, key="x"):
                pass
        return await asyncio.gather(*[one("async") for _ in range(5)])

    database = Database("postgres", postgres.dsn)
    assert asyncio.run(main()) == [{"by": "async"}] * 5
    assert database.charges("async") == 1
    database.close()


def test_a_commit_that_does_nothing_is_not_relied_on(tmp_path: Path) -> None:
    """As with ``sqlite3.connect(autocommit=True)`` of Python 3.12, whose commit() and rollback() do nothing."""

    class Autocommit(sqlite3.Connection):
        def commit(self) -> None: ...

        def rollback(self) -> None: ...

    if sys.version_info >= (3, 12):
        connection = sqlite3.connect(tmp_path / "db", autocommit=True)
    else:
        connection = sqlite3.connect(tmp_path / "db", isolation_level=None, factory=Autocommit)
    effects.create_inbox(connection)
    connection.execute("CREATE TABLE ledger (key TEXT, amount INTEGER)")
    charge(connection, "?", "k")

    def fails() -> None:
        with effects.inbox(connection, key="raises"):
            connection.execute("INSERT INTO ledger VALUES ('raises', 1)")
            raise LookupError

    with pytest.raises(LookupError):
        fails()
    assert not connection.in_transaction
    connection.close()
    again = sqlite3.connect(tmp_path / "db")
    assert again.execute("SELECT key FROM ledger").fetchall() == [("k",)]
    again.close()


def test_a_commit_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    connection, reader = sqlite3.connect(tmp_path / "db", timeout=0.1), sqlite3.connect(tmp_path / "db")
    effects.create_inbox(connection)
    connection.execute("CREATE TABLE ledger (key TEXT, amount INTEGER)")
    connection.execute("INSERT INTO ledger VALUES ('a', 1), ('b', 1)")
    connection.commit()
    rows = reader.execute("SELECT * FROM ledger")
    rows.fetchone()  # who reads keeps the commit out
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        charge(connection, "?", "k")
    assert not connection.in_transaction
    rows.close()
    assert charge(connection, "?", "k") == {"charged": 100, "by": "k"}
    for each in (connection, reader):
        each.close()


@pytest.mark.parametrize("how", ["rows", "placeholders"])
def test_rows_and_placeholders_of_the_users_do_not_matter(database: Database, how: str) -> None:
    connection = database.connect()
    if database.kind == "sqlite":
        connection.row_factory = lambda cursor, row: {column[0]: row[i] for i, column in enumerate(cursor.description)}
    elif how == "rows":
        connection.row_factory = psycopg.rows.dict_row
    else:
        connection.cursor_factory = psycopg.RawCursor
    for number in range(2):
        with effects.inbox(connection, key="k") as entry:
            entry.result = number
        assert (entry.is_repeat, entry.result) == (number == 1, 0)


def test_a_pipeline_is_refused(postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        effects.create_inbox(connection)
        with (
            connection.pipeline(),
            pytest.raises(ConfigurationError, match="pipeline mode"),
            effects.inbox(connection, key="k"),
        ):
            pass
