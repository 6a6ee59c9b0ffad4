"""What locks leave behind where they are kept: nothing, once nobody holds or waits; and nothing that stays for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.contract.locks.program import Program
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

from kapstan import backend
from kapstan.locking import FileSystemLockManager, LockManager, PostgresLockManager, RedisLockManager
from kapstan.locks.bell import Bell
from kapstan.ports import Wait
from kapstan.queue.keys import spec_of

MANY = 200


def busy(manager: LockManager) -> None:
    """Many holds, waits that are given up, looks, a process that is killed while it holds and waits."""
    doomed = Program(manager)
    for number in range(MANY):
        assert manager.acquire_lock(f"key-{number}", "a", hold_timeout=60 if number % 2 else None)
    assert doomed.ask("acquire", "held", "d") == "True"
    assert doomed.ask("line_up", "key-0", "d") == "waiting"
    with ThreadPoolExecutor(4) as pool:
        waits = [pool.submit(manager.acquire_lock, f"key-{number}", "b", 0.2) for number in range(4)]
        looks = [pool.submit(manager.wait_for_lock, f"key-{number}", 0.2) for number in range(4)]
        assert not any(call.result() for call in (*waits, *looks))
    doomed.close()
    assert manager.acquire_lock("held", "a", 30)


def all_released(manager: LockManager) -> None:
    for name in ("held", *(f"key-{number}" for number in range(MANY))):
        manager.release_lock(name, "a")


def test_redis(redis_of_locks: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAPSTAN_NAMESPACE", "left-behind")
    manager = RedisLockManager(host="127.0.0.1", port=redis_of_locks.port)
    prefix = "{left-behind}:"
    with redis_of_locks.client() as client:

        def names() -> list[str]:
            return sorted(key.decode()[len(prefix) :] for key in client.scan_iter(f"{prefix}*"))

        busy(manager)
        held = names()
        assert len([name for name in held if name.startswith("lk:")]) == MANY + 1
        for name in held:
            spec = spec_of(name)
            assert spec is not None, name
            assert client.type(prefix + name).decode() == spec.type
            assert (client.ttl(prefix + name) == -1) == (spec.life == "permanent"), name
        all_released(manager)
        assert [name.partition(":")[0] for name in names()] == ["lc", "lt"]
        backend.use(None)
        assert names() == ["lt"]


def test_files(tmp_path: Path) -> None:
    manager = FileSystemLockManager(tmp_path / "locks")
    busy(manager)
    assert len(list((tmp_path / "locks" / "keys").iterdir())) == MANY + 1
    all_released(manager)
    assert list((tmp_path / "locks" / "keys").iterdir()) == []
    assert len(list((tmp_path / "locks" / "clients").iterdir())) == 2  # this process, and its pipe
    backend.use(None)
    assert list((tmp_path / "locks" / "clients").iterdir()) == []


def test_what_a_killed_process_left_in_files_goes_with_the_next_that_comes(tmp_path: Path) -> None:
    manager = FileSystemLockManager(tmp_path / "locks")
    doomed = Program(manager)
    assert doomed.ask("acquire", "k", "a") == "True"
    doomed.close()
    assert len(list((tmp_path / "locks" / "keys").iterdir())) == 1
    (tmp_path / "locks" / "keys" / "half.new").write_text("{")
    assert not manager.is_locked("another")
    assert list((tmp_path / "locks" / "keys").iterdir()) == []
    backend.use(None)


def test_postgres(postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute("CREATE DATABASE left_behind")  # others that were killed have left what they held
    dsn = make_conninfo(postgres.dsn, dbname="left_behind")
    manager = PostgresLockManager(dsn)
    counts: Callable[[psycopg.Connection], tuple[int, int] | None] = lambda connection: connection.execute(  # noqa: E731
        "SELECT (SELECT count(*) FROM kapstan_locks), (SELECT count(*) FROM kapstan_lock_clients)"
    ).fetchone()
    busy(manager)
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert counts(connection) == (MANY + 1, 1)
        all_released(manager)
        assert counts(connection) == (0, 1)
        backend.use(None)
        assert counts(connection) == (0, 0)
        sessions = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE application_name = 'kapstan-locks' AND datname = current_database()"
        )
        while connection.execute(sessions).fetchone() != (0,):  # a server ends a session a moment after its client
            continue


def test_holds_that_end_by_themselves_and_are_never_given_back(
    manager: LockManager, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of who asks whether something was done within the last hour: each key is another one."""
    monkeypatch.setattr("kapstan.locks.expired._LATER", 0.0)
    left: set[str] = set()
    locks: Any = manager._locks()
    released = locks._table.give_up

    def give_up(wait: Wait, patience: float | None = None) -> None:
        left.discard(wait.key)
        released(wait, patience)

    monkeypatch.setattr(locks._table, "give_up", give_up)
    for number in range(MANY):
        left.add(f"{key}-{number}")
        assert manager.acquire_lock(f"{key}-{number}", "a", 0, 0.0001)
    assert len(left) < MANY // 4
    assert len(locks._held) < MANY // 4
    for number in range(2 * MANY):
        assert manager.acquire_lock(f"{key}-given-back", f"h{number}", 0, 3600)
        manager.release_lock(f"{key}-given-back", f"h{number}")
    assert len(locks._expiring._due) < MANY


_MANY_FILES = """
import os, resource, sys, threading
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
kept = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
from kapstan.locking import PostgresLockManager
locks = PostgresLockManager(sys.argv[1])
assert locks.acquire_lock("many files", "first")
waiter = threading.Thread(target=lambda: print(locks.acquire_lock("many files", "second", 20)))
waiter.start()
locks.release_lock("many files", "first")
waiter.join()
locks.release_lock("many files", "second")
"""


def test_a_process_with_more_than_1024_files_hears_of_its_locks(postgres: PostgresServer) -> None:
    """Its listening thread died of them, and with it the session that shows others that the process lives."""
    done = subprocess.run(
        [sys.executable, "-c", _MANY_FILES, postgres.dsn], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_bell_whose_number_is_another_file_by_now_leaves_that_alone(tmp_path: Path) -> None:
    """The user's code has closed every file; a byte was written into the next one that it opened."""
    bell = Bell()
    numbers = {bell.reader, bell._writer}
    for number in numbers:
        os.close(number)
    mine = [os.open(tmp_path / str(each), os.O_RDWR | os.O_CREAT) for each in range(2)]
    assert set(mine) == numbers, "the fault bites"
    bell.ring()
    assert not bell.clear()
    bell.close()
    assert [os.fstat(each).st_size for each in mine] == [0, 0]
    for each in mine:
        os.close(each)
