"""Blocks of ``effects.inbox`` that end otherwise than they should: nested, committed inside, forked, cut off."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from tests.integration.effects.conftest import Database
from tests.integration.effects.killed import charge
from tests.servers.postgres import PostgresServer
from tests.servers.tcp_relay import TcpRelay

from kapstan import effects
from kapstan.errors import ConfigurationError, HalfDone


def mark(database: Database) -> str:
    return "?" if database.kind == "sqlite" else "%s"


def autocommitting(database: Database) -> Any:
    connection = database.connect()
    if database.kind == "sqlite":
        connection.isolation_level = None
    else:
        connection.autocommit = True
    return connection


def block(connection: Any, key: str, body: Callable[[effects.Entry], object]) -> Any:
    with effects.inbox(connection, key=key) as entry:
        connection.execute("INSERT INTO ledger VALUES ('work', 1)")
        body(entry)
    return entry.result


def test_autocommit_is_no_commit_in_the_middle(database: Database) -> None:
    connection = autocommitting(database)

    def fails(_: effects.Entry) -> None:
        assert database.charges("work") == 0
        raise LookupError

    with pytest.raises(LookupError):
        block(connection, "k", fails)
    assert database.charges("work") == 0
    assert [charge(connection, mark(database), "k")["charged"] for _ in range(2)] == [100, 100]
    assert database.charges("k") == 1


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_block_that_ends_its_transaction_by_a_statement_is_told(
    database: Database, autocommit: bool, end: str
) -> None:
    """psycopg refuses ``connection.commit()`` in a block, but cannot see a statement."""
    connection = autocommitting(database) if autocommit else database.connect()
    with pytest.raises(HalfDone, match="committed or rolled back by itself"):
        block(connection, "k", lambda _: (connection.execute(end), connection.execute("SELECT 1").fetchall()))
    assert database.charges("work") == (end == "COMMIT")
    other = database.connect()
    if end == "ROLLBACK":  # nothing is left: it is done anew
        assert charge(other, mark(database), "k") == {"charged": 100, "by": "k"}
        return
    with pytest.raises(HalfDone, match="without a result"):
        charge(other, mark(database), "k")


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_repeat_that_commits_by_itself_is_told(database: Database, autocommit: bool) -> None:
    """Its work was done a second time, and nobody said so."""
    charge(database.connect(), mark(database), "k")
    connection = autocommitting(database) if autocommit else database.connect()
    with pytest.raises(HalfDone, match="a second time"):
        block(connection, "k", lambda _: connection.execute("COMMIT"))
    assert database.charges("work") == 1, "the fault bites"


def test_a_repeat_whose_statement_fails_is_a_repeat(database: Database) -> None:
    charge(database.connect(), mark(database), "k")
    connection = database.connect()

    def fails(_: effects.Entry) -> None:
        with pytest.raises((sqlite3.Error, psycopg.Error)):
            connection.execute("SELECT * FROM nowhere")

    assert block(connection, "k", fails) == {"charged": 100, "by": "k"}
    assert database.charges("work") == 0


def test_a_block_in_a_block_of_another_key_is_its_part(database: Database) -> None:
    connection = database.connect()

    def outer(_: effects.Entry) -> None:
        with pytest.raises(LookupError):
            block(connection, "fails", fails)
        assert block(connection, "inner", lambda entry: setattr(entry, "result", 1)) == 1

    def fails(_: effects.Entry) -> None:
        raise LookupError

    block(connection, "outer", outer)
    assert database.charges("work") == 2
    for key, expected in (("outer", None), ("inner", 1)):
        assert block(connection, key, lambda _: None) == expected
    assert database.charges("work") == 2
    block(connection, "fails", lambda _: None)
    assert database.charges("work") == 3


def test_a_block_that_fails_takes_the_blocks_in_it_along(database: Database) -> None:
    connection = database.connect()

    def outer(_: effects.Entry) -> None:
        block(connection, "inner", lambda _: None)
        raise LookupError

    with pytest.raises(LookupError):
        block(connection, "outer", outer)
    assert database.charges("work") == 0
    assert charge(connection, mark(database), "inner")["charged"] == 100


def test_a_block_in_a_block_of_the_same_key_is_refused(database: Database) -> None:
    """One would have been taken for a repeat of the other, or for half of it."""
    connection = database.connect()
    with pytest.raises(ConfigurationError, match="'k' is open on this connection"):
        block(connection, "k", lambda _: block(connection, "k", lambda _: None))
    assert database.charges("work") == 0
    assert charge(connection, mark(database), "k")["charged"] == 100


def test_a_second_block_of_a_key_waits_for_the_end_of_the_first(database: Database) -> None:
    first, begun, go_on = database.connect(), threading.Event(), threading.Event()
    answers: list[Any] = []

    def fails(_: effects.Entry) -> None:
        begun.set()
        assert go_on.wait(30)
        raise LookupError

    def one() -> None:
        with pytest.raises(LookupError):
            block(first, "k", fails)

    def another() -> None:
        answers.append(charge(database.connect(), mark(database), "k"))

    threads = [threading.Thread(target=one), threading.Thread(target=another)]
    threads[0].start()
    assert begun.wait(30)
    threads[1].start()
    threads[1].join(0.3)
    assert threads[1].is_alive()
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert answers == [{"charged": 100, "by": "k"}]
    assert (database.charges("k"), database.charges("work")) == (1, 0)


@pytest.mark.parametrize("how", ["returns", "raises"])
def test_a_fork_that_leaves_the_block_ends_nothing(database: Database, how: str) -> None:
    """It committed, or rolled back, what its parent was still at."""
    connection, parent, status = database.connect(), os.getpid(), 1

    def forks(entry: effects.Entry) -> None:
        if (child := os.fork()) == 0:
            if how == "raises":
                raise SystemExit
            return
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert database.charges("work") == 0
        entry.result = "the parent's"

    try:
        answer = block(connection, "k", forks)
    except SystemExit:
        status = int(how != "raises")
    except ConfigurationError as error:
        status = int("was forked" not in str(error))
    finally:
        if os.getpid() != parent:
            os._exit(status)
    assert answer == "the parent's"
    assert database.charges("work") == 1


def test_a_session_that_the_server_ends_in_a_block_does_nothing(postgres: PostgresServer) -> None:
    database = Database("postgres", postgres.dsn)
    connection = database.connect()

    def ended(_: effects.Entry) -> None:
        with psycopg.connect(postgres.dsn, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))

    with pytest.raises(psycopg.OperationalError):
        block(connection, "k", ended)
    assert database.charges("work") == 0
    assert charge(database.connect(), "%s", "k")["charged"] == 100
    database.close()


@pytest.mark.parametrize("reply", range(1, 9))
def test_a_reply_that_is_lost_to_an_autocommitting_connection(postgres: PostgresServer, reply: int) -> None:
    """That of the commit, too: whether it was done is unknown, until somebody asks again."""
    database = Database("postgres", postgres.dsn)
    try:
        with TcpRelay(postgres.port) as relay:
            connection = psycopg.connect(
                f"host=127.0.0.1 port={relay.port} dbname=postgres user=kapstan", autocommit=True
            )
            relay.lose_reply(reply)
            try:
                charge(connection, "%s", f"lost-{reply}")
            except psycopg.OperationalError:
                assert relay.lost.is_set()
            connection.close()
        for _ in range(2):
            assert charge(database.connect(), "%s", f"lost-{reply}")["charged"] == 100
        assert database.charges(f"lost-{reply}") == 1
    finally:
        database.close()


def test_a_cancelled_block_is_rolled_back(postgres: PostgresServer) -> None:
    database = Database("postgres", postgres.dsn)

    async def work(connection: Any, begun: asyncio.Event, gate: asyncio.Event) -> Any:
        async with effects.inbox(connection, key="k") as entry:
            await connection.execute("INSERT INTO ledger VALUES ('work', 1)")
            begun.set()
            await gate.wait()
            entry.result = entry.is_repeat
        return entry.result

    async def main() -> Any:
        async with await psycopg.AsyncConnection.connect(postgres.dsn, autocommit=True) as connection:
            begun, gate = asyncio.Event(), asyncio.Event()
            task = asyncio.create_task(work(connection, begun, gate))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gate.set()
            return [await work(connection, begun, gate) for _ in range(2)]

    assert asyncio.run(main()) == [False, False]
    assert database.charges("work") == 1
    database.close()


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_an_asyncio_block_that_ends_its_transaction_is_told(postgres: PostgresServer, end: str) -> None:
    database = Database("postgres", postgres.dsn)

    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(postgres.dsn, autocommit=True) as connection:
            async with effects.inbox(connection, key="done"):
                pass
            for key, words in (("k", "committed or rolled back by itself"), ("done", "a second time")):
                with pytest.raises(HalfDone, match=words):
                    async with effects.inbox(connection, key=key):
                        await connection.execute(end)

    asyncio.run(main())
    database.close()
