"""What a service of locks may do to its callers: refuse writes or rights, end sessions, set its clock, stand still."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.contract.locks.line import await_waiting
from tests.contract.locks.program import Program
from tests.servers import clock as clocks
from tests.servers.clock import Clock
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer
from tests.servers.sentinel import Watched

from kapstan import backend
from kapstan.errors import ConfigurationError, LockUnavailable, LockUnreadable
from kapstan.locking import LockLost, LockManager, PostgresLockManager, RedisLockManager
from kapstan.locks import postgres as postgres_table
from kapstan.locks.state import digest

LEASE = 2.0


@pytest.fixture
def locks(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> RedisLockManager:
    """Of a server of the test's own; it is tried for a second when it is away."""
    monkeypatch.setenv("KAPSTAN_REDIS_RETRY_SECONDS", "1")
    backend.use(None)
    return RedisLockManager(host="127.0.0.1", port=redis.port)


REFUSALS = {
    "no replica": (("CONFIG", "SET", "min-replicas-to-write", "1"), ("CONFIG", "SET", "min-replicas-to-write", "0")),
    "a replica": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    "full": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
}


@pytest.mark.usefixtures("lease")
@pytest.mark.parametrize("fault", REFUSALS)
def test_a_redis_that_takes_no_writes_gives_and_takes_no_lock(
    redis: RedisServer, locks: RedisLockManager, fault: str
) -> None:
    assert locks.acquire_lock("k", "a")
    token = locks.guard_lock("k", "a")
    began, ended = REFUSALS[fault]
    with redis.client() as client:
        client.execute_command(*began)
        with pytest.raises(LockUnavailable, match="No lock can be had or checked now"):
            locks.acquire_lock("another", "b", 5)
        threading.Event().wait(2 * LEASE)
        client.execute_command(*ended)
    assert not locks.acquire_lock("k", "b", 0.5)
    assert locks.guard_lock("k", "a") == token
    locks.release_lock("k", "a")
    assert not locks.is_locked("another")


def test_a_redis_that_is_full_takes_locks_back(redis: RedisServer, locks: RedisLockManager) -> None:
    assert locks.acquire_lock("k", "a")
    with redis.client() as client:
        client.config_set("maxmemory", "1")
        locks.release_lock("k", "a")
        client.config_set("maxmemory", "0")
    assert not locks.is_locked("k")


@contextlib.contextmanager
def user_without(redis: RedisServer, rights: str) -> Iterator[RedisLockManager]:
    with redis.client() as client:
        client.execute_command("ACL", "SETUSER", "less", "on", ">less", "~*", "&*", "+@all", rights)
    yield RedisLockManager(host="127.0.0.1", port=redis.port, username="less", password="less")


@pytest.mark.parametrize("rights", ["-subscribe", "resetchannels", "-evalsha"])
def test_a_user_without_a_right_is_told_at_the_first_lock(
    redis: RedisServer, locks: RedisLockManager, rights: str
) -> None:
    """Without the right to subscribe, a thread died of it, and nobody who waited heard of a release."""
    assert locks.acquire_lock("first", "a")  # the scripts are loaded by a user who may
    with user_without(redis, rights) as less, pytest.raises(ConfigurationError, match="Redis refuses this user"):
        less.acquire_lock("k", "a", 5)
    assert not locks.is_locked("k")
    locks.release_lock("first", "a")


def test_a_key_that_another_program_wrote_over_blocks_itself_only(redis: RedisServer, locks: RedisLockManager) -> None:
    assert locks.acquire_lock("k", "a")
    with redis.client() as client:
        (name,) = client.keys("*}:lk:*")
        client.hdel(name, "c", "w", "t")
    for call in (lambda: locks.acquire_lock("k", "b", 0), lambda: locks.release_lock("k", "a")):
        with pytest.raises(LockUnreadable, match="delete that key"):
            call()
    assert locks.acquire_lock("another", "b", 0)
    locks.release_lock("another", "b")


@pytest.mark.usefixtures("lease")
@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_a_clock_that_is_set_ends_no_lock(tmp_path: Path, step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(tmp_path / "clock")
    server = clocks.served(tmp_path / "redis", clock)
    server.start()
    manager = RedisLockManager(host="127.0.0.1", port=server.port)
    try:
        assert manager.acquire_lock("k", "a")
        token = manager.guard_lock("k", "a")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(manager.acquire_lock, "k", "b", 60)
            await_waiting(manager, "k", 1)
            clock.set_to(step)
            assert abs(clocks.ahead(server) - step) < 2.0, "the fault bites"
            threading.Event().wait(2 * LEASE)
            assert not waiting.done()
            assert manager.guard_lock("k", "a") == token
            manager.release_lock("k", "a")
            assert waiting.result(30)
        assert manager.guard_lock("k", "b") > token
        manager.release_lock("k", "b")
    finally:
        backend.use(None)
        server.stop()


@pytest.mark.parametrize("service", ["redis", "postgres"])
def test_the_first_use_of_a_service_that_is_away_keeps_to_the_timeout(service: str, unused_port: int) -> None:
    manager: LockManager = (
        RedisLockManager(host="127.0.0.1", port=unused_port)
        if service == "redis"
        else PostgresLockManager(f"host=127.0.0.1 port={unused_port} dbname=postgres")
    )
    began = time.monotonic()
    with pytest.raises(LockUnavailable):
        manager.acquire_lock("k", "a", 0.1)
    assert time.monotonic() - began < 15  # of KAPSTAN_REDIS_RETRY_SECONDS, 30
    backend.use(None)


@pytest.fixture
def unused_port() -> Iterator[int]:
    import socket

    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'kapstan-locks'"


@pytest.mark.usefixtures("lease")
def test_sessions_that_postgres_ends_lose_no_lock(postgres: PostgresServer) -> None:
    manager = PostgresLockManager(postgres.dsn)
    other = Program(manager)
    try:
        assert manager.acquire_lock("ended", "a")
        token = manager.guard_lock("ended", "a")
        assert other.ask("line_up", "ended", "b") == "waiting"
        await_waiting(manager, "ended", 1)
        with psycopg.connect(postgres.dsn, autocommit=True) as admin:
            for _ in range(5):
                assert admin.execute(SESSIONS).fetchall(), "the fault bites"
                assert not manager.acquire_lock("ended", "c", 0.5)
        assert manager.guard_lock("ended", "a") == token
        manager.release_lock("ended", "a")
        assert other.answer() == "True"
        assert other.ask("release", "ended", "b") == "None"
    finally:
        other.close()
        backend.use(None)


def test_a_postgres_that_only_reads_gives_no_lock(postgres: PostgresServer) -> None:
    PostgresLockManager(postgres.dsn).is_locked("k")  # the tables are there
    manager = PostgresLockManager(make_conninfo(postgres.dsn, options="-c default_transaction_read_only=on"))
    with pytest.raises(LockUnavailable, match="read-only"):
        manager.acquire_lock("k", "a", 5)
    backend.use(None)


def test_a_process_that_was_stopped_in_a_change_holds_up_nobody_for_ever(postgres: PostgresServer) -> None:
    """They waited for its transaction without an end, whatever their timeout was."""
    manager = PostgresLockManager(postgres.dsn)
    assert not manager.is_locked("stuck")
    number = postgres_table._number(digest(backend.current().settings.namespace, "stuck"))
    with psycopg.connect(postgres.dsn) as stopped:
        stopped.execute("SELECT pg_advisory_xact_lock(%s)", (number,))
        began = time.monotonic()
        with pytest.raises(LockUnavailable):
            manager.acquire_lock("stuck", "a", 0.5)
        assert time.monotonic() - began < 15
    assert manager.acquire_lock("stuck", "a", 5)
    manager.release_lock("stuck", "a")
    backend.use(None)


def test_a_change_that_stands_still_is_rolled_back_by_postgres(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process was stopped; when it goes on it makes the change anew."""
    monkeypatch.setattr("kapstan.locks.postgres_schema.NO_IDLING", "SET idle_in_transaction_session_timeout = 200")
    manager = PostgresLockManager(postgres.dsn)
    stopped = threading.Event()
    real = postgres_table.Change.ask

    def ask(*args: object) -> object:
        if not stopped.is_set():
            stopped.set()
            time.sleep(1.0)
        return real(*args)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(postgres_table.Change, "ask", ask)
    assert manager.acquire_lock("still", "a", 20)
    assert stopped.is_set()
    manager.release_lock("still", "a")
    backend.use(None)


TWINS = [
    ("Key", "key"),
    ("é", "e\u0301"),
    ("a/b", "a//b"),
    ("../k", "k"),
    ("k ", "k"),
    ("k\0", "k"),
    ("x" * 5000, "x" * 4999),
]


@pytest.mark.parametrize("pair", TWINS)
def test_keys_that_are_nearly_the_same_are_two(manager: LockManager, pair: tuple[str, str]) -> None:
    for name in pair:
        assert manager.acquire_lock(name, "a", 5)
    for name in pair:
        assert not manager.acquire_lock(name, "b", 0)
        manager.release_lock(name, "a")
        assert not manager.is_locked(name)


@pytest.mark.usefixtures("lease")
def test_a_failover_that_lost_a_lock_tells_its_holder_and_keeps_the_others(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    manager = RedisLockManager(connection_url=watched.url)
    try:
        assert manager.acquire_lock("copied", "a")
        kept = manager.guard_lock("copied", "a")
        with watched.primary.client() as client:
            assert client.execute_command("WAIT", 1, 10_000) == 1
        watched.cut_replica_off()
        assert manager.acquire_lock("not copied", "a")
        token = manager.guard_lock("not copied", "a")
        watched.primary.kill()
        assert manager.acquire_lock("not copied", "b", 60)
        assert manager.guard_lock("not copied", "b") > token
        with pytest.raises(LockLost, match="'b' holds it"):
            manager.release_lock("not copied", "a")
        assert manager.guard_lock("copied", "a") == kept
        assert not manager.acquire_lock("copied", "c", 2 * LEASE)
        manager.release_lock("copied", "a")
        manager.release_lock("not copied", "b")
    finally:
        backend.use(None)
        watched.close()


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
@pytest.mark.usefixtures("between_processes")
def test_a_manager_goes_into_processes_of_multiprocessing(manager: LockManager, key: str, method: str) -> None:
    assert manager.acquire_lock(key, "a")
    context = multiprocessing.get_context(method)
    answers: Any = context.Queue()
    child = context.Process(target=in_a_child, args=(manager, key, answers))
    child.start()
    assert answers.get(timeout=60) == (False, True)
    child.join(60)
    assert child.exitcode == 0
    assert manager.acquire_lock(f"{key}-of-the-child", "b", 30)
    assert manager.guard_lock(key, "a") > 0
    for name, holder in ((key, "a"), (f"{key}-of-the-child", "b")):
        manager.release_lock(name, holder)


def in_a_child(manager: LockManager, key: str, answers: Any) -> None:
    answers.put((manager.acquire_lock(key, "child", 0.1), manager.acquire_lock(f"{key}-of-the-child", "child", 20)))
