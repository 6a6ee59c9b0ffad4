"""The service of a lock goes away, is cut off, restarted, or loses all: nobody is robbed, and who lost is told."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.contract.locks.line import await_waiting
from tests.contract.locks.program import Program, keepers_of
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer
from tests.servers.tcp_relay import TcpRelay

from kapstan import backend
from kapstan.locking import LockLost, LockManager, LockUnavailable, PostgresLockManager, RedisLockManager
from kapstan.queue import scripts

pytestmark = pytest.mark.usefixtures("lease")
LEASE = 2.0


class Service:
    """A server of the test's own behind a relay; ``manager`` goes through it, ``direct`` past it."""

    def __init__(self, server: Any, relay: TcpRelay, make: Callable[[int], LockManager], port: int) -> None:
        self.server = server
        self.relay = relay
        self.manager = make(relay.port)
        self.direct = make(port)

    def restart(self) -> None:
        self.server.kill()
        self.server.start()


@pytest.fixture(params=["redis", "postgres"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    made: Any
    if request.param == "redis":
        made = RedisServer(tmp_path / "server")
        make: Any = lambda port: RedisLockManager(host="127.0.0.1", port=port)  # noqa: E731
    else:
        made = PostgresServer()
        make = lambda port: PostgresLockManager(f"host=127.0.0.1 port={port} dbname=postgres user=kapstan")  # noqa: E731
    try:
        made.start()
        with TcpRelay(made.port) as relay:
            yield Service(made, relay, make, made.port)
            backend.use(None)
    finally:
        made.remove() if isinstance(made, PostgresServer) else made.stop()


def test_a_cut_connection_loses_nothing(service: Service) -> None:
    assert service.manager.acquire_lock("k", "a")
    token = service.manager.guard_lock("k", "a")
    service.relay.hang_up()
    assert not service.direct.acquire_lock("k", "b", 2 * LEASE)
    assert service.manager.guard_lock("k", "a") == token
    service.manager.release_lock("k", "a")
    assert service.direct.acquire_lock("k", "b", 0)
    service.direct.release_lock("k", "b")


def test_a_waiter_whose_connection_is_cut_waits_on(service: Service) -> None:
    assert service.direct.acquire_lock("k", "a")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(service.manager.acquire_lock, "k", "b", 60)
        await_waiting(service.direct, "k", 1)
        service.relay.hang_up()
        service.direct.release_lock("k", "a")
        assert waiting.result(30)
    service.manager.release_lock("k", "b")


def test_a_restart_loses_nothing(service: Service) -> None:
    assert service.manager.acquire_lock("k", "a")
    token = service.manager.guard_lock("k", "a")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(service.direct.acquire_lock, "k", "b", 60)
        await_waiting(service.manager, "k", 1)
        service.restart()
        assert service.manager.guard_lock("k", "a") == token
        time.sleep(1.5 * LEASE)
        assert not waiting.done()
        service.manager.release_lock("k", "a")
        assert waiting.result(30)
    assert service.direct.guard_lock("k", "b") > token
    service.direct.release_lock("k", "b")


def test_an_outage_longer_than_a_lease_robs_nobody(service: Service) -> None:
    """Both are cut off; whoever is back first must not think that the other died."""
    assert service.manager.acquire_lock("k", "a")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(service.direct.acquire_lock, "k", "b", 60)
        await_waiting(service.manager, "k", 1)
        service.relay.silent()
        service.server.kill()
        threading.Timer(1.0, service.relay.flow).start()
        service.server.start()
        assert service.manager.guard_lock("k", "a") > 0
        assert not waiting.done()
        service.manager.release_lock("k", "a")
        assert waiting.result(30)
    service.direct.release_lock("k", "b")


def test_a_holder_that_is_cut_off_for_good_is_told(service: Service) -> None:
    """Its machine cannot be reached any more: after a lease the lock is another's; it hears so when it asks."""
    assert service.manager.acquire_lock("k", "a")
    token = service.manager.guard_lock("k", "a")
    service.relay.silent()
    if isinstance(service.server, PostgresServer):
        service.relay.hang_up()
    began = time.monotonic()
    assert service.direct.acquire_lock("k", "b", 60)
    assert time.monotonic() - began > 0.9 * LEASE
    assert service.direct.guard_lock("k", "b") > token
    service.relay.flow()
    with pytest.raises(LockLost):
        service.manager.guard_lock("k", "a")
    with pytest.raises(LockLost):
        service.manager.release_lock("k", "a")
    assert service.direct.is_lock_holder("k", "b")
    service.direct.release_lock("k", "b")


def test_a_service_that_is_away_locks_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAPSTAN_REDIS_RETRY_SECONDS", "0.5")
    backend.use(None)
    service.server.kill()
    with pytest.raises(LockUnavailable):
        service.direct.acquire_lock("k", "a", 60)
    service.server.start()
    assert service.direct.acquire_lock("k", "b", 0)
    service.direct.release_lock("k", "b")


def test_acquire_timeout_bounds_the_wait_for_a_service_that_is_away(service: Service) -> None:
    assert service.direct.acquire_lock("k", "a", 0)
    service.server.kill()
    began = time.monotonic()
    with pytest.raises(LockUnavailable):
        service.direct.acquire_lock("k2", "a", 0.1)
    assert time.monotonic() - began < 6.0  # of KAPSTAN_REDIS_RETRY_SECONDS, 30
    service.server.start()
    service.direct.release_lock("k", "a")


def test_a_call_that_is_given_up_in_an_outage_holds_nothing_afterwards(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its place in line was kept by the server; it must not be granted the lock for ever."""
    monkeypatch.setenv("KAPSTAN_REDIS_RETRY_SECONDS", "0.5")
    backend.use(None)
    assert service.manager.acquire_lock("k", "a")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(service.manager.acquire_lock, "k", "b", 60)
        await_waiting(service.manager, "k", 1)
        service.server.kill()
        with pytest.raises(LockUnavailable):
            waiting.result(60)
    service.server.start()
    service.manager.release_lock("k", "a")
    assert service.manager.acquire_lock("k", "c", 10)
    service.manager.release_lock("k", "c")
    assert not service.manager.is_locked("k")


def test_a_lock_that_could_not_be_given_back_is_given_back_later(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAPSTAN_REDIS_RETRY_SECONDS", "0.5")
    backend.use(None)
    assert service.manager.acquire_lock("k", "a")
    service.server.kill()
    with pytest.raises(LockUnavailable):
        service.manager.release_lock("k", "a")
    service.server.start()
    assert service.direct.acquire_lock("k", "b", 15)
    service.direct.release_lock("k", "b")


def test_a_redis_that_lost_the_lock_says_so_and_mints_greater_tokens(redis: RedisServer) -> None:
    manager = RedisLockManager(host="127.0.0.1", port=redis.port)
    assert manager.acquire_lock("k", "a")
    token = manager.guard_lock("k", "a")
    with redis.client() as client:
        client.flushall()
    with pytest.raises(LockLost, match="nobody holds it"):
        manager.guard_lock("k", "a")
    assert manager.acquire_lock("k", "b", 10)
    assert manager.guard_lock("k", "b") > token
    with pytest.raises(LockLost, match="'b' holds it"):
        manager.release_lock("k", "a")
    manager.release_lock("k", "b")


def test_a_call_that_redis_carries_out_late_takes_no_lock(redis: RedisServer) -> None:
    """It was on its way when its connection was cut; meanwhile its caller had the lock and gave it back."""
    with TcpRelay(redis.port) as relay:
        manager = RedisLockManager(host="127.0.0.1", port=relay.port)
        direct = RedisLockManager(host="127.0.0.1", port=redis.port)
        assert not manager.is_locked("k")
        ask = b"EVALSHA\r\n$40\r\n" + scripts.lock_ask.sha.encode()
        relay.strand(ask)
        assert manager.acquire_lock("k", "a", 10)
        manager.release_lock("k", "a")
        relay.deliver()
        assert not direct.is_locked("k")

        backend.use(None)


def test_a_late_call_of_who_gave_up_takes_no_place_in_line(redis: RedisServer) -> None:
    with TcpRelay(redis.port) as relay:
        manager = RedisLockManager(host="127.0.0.1", port=relay.port)
        direct = RedisLockManager(host="127.0.0.1", port=redis.port)
        assert direct.acquire_lock("k", "b")
        assert not manager.acquire_lock("k", "c", 0)
        relay.strand(b"EVALSHA\r\n$40\r\n" + scripts.lock_ask.sha.encode())
        assert not manager.acquire_lock("k", "c", 0.5)
        relay.deliver()
        direct.release_lock("k", "b")
        assert not direct.is_locked("k")
        backend.use(None)


def test_a_release_whose_answer_is_lost_is_no_loss(redis: RedisServer) -> None:
    with TcpRelay(redis.port) as relay:
        manager = RedisLockManager(host="127.0.0.1", port=relay.port)
        assert manager.acquire_lock("k", "a", 10)
        relay.lose_reply(1)
        manager.release_lock("k", "a")
        assert relay.lost.is_set()
        assert not manager.is_locked("k")
        backend.use(None)


def test_a_keeper_that_is_killed_is_replaced(redis: RedisServer) -> None:
    backend.use(None)  # the keepers of other servers, which this process has used, end
    manager = RedisLockManager(host="127.0.0.1", port=redis.port)
    before = set(keepers_of(os.getpid()))
    assert manager.acquire_lock("k", "a")
    program = Program(manager)
    try:
        (keeper,) = set(keepers_of(os.getpid())) - before
        os.kill(keeper, signal.SIGKILL)
        assert program.ask("acquire", "k", "b", 2.5 * LEASE) == "False"
        assert set(keepers_of(os.getpid())) - before - {keeper}
    finally:
        program.close()
    manager.release_lock("k", "a")


def test_a_holder_that_died_with_its_keeper_is_outlived_by_a_lease(redis: RedisServer, place_elsewhere: None) -> None:
    """As with a machine that lost its power: nobody is there to say that it ended."""
    manager = RedisLockManager(host="127.0.0.1", port=redis.port)
    program = Program(manager)
    try:
        assert program.ask("acquire", "k", "a") == "True"
        for keeper in keepers_of(program.pid):
            os.kill(keeper, signal.SIGSTOP)
        program.signal(signal.SIGSTOP)
        began = time.monotonic()
        assert manager.acquire_lock("k", "b", 60)
        assert 0.9 * LEASE < time.monotonic() - began < 4 * LEASE
        for keeper in keepers_of(program.pid):
            os.kill(keeper, signal.SIGCONT)
        program.signal(signal.SIGCONT)
        assert program.ask("guard", "k", "a") == "LockLost"
        assert program.ask("release", "k", "a") == "LockLost"
    finally:
        program.close()
    manager.release_lock("k", "b")


@pytest.mark.parametrize("timeout", [0, 0.2])
def test_whoever_only_asks_now_and_then_outlives_a_dead_holder_too(
    redis: RedisServer, place_elsewhere: None, timeout: float
) -> None:
    """What was counted of the holder's silence was forgotten at the end of each call."""
    manager = RedisLockManager(host="127.0.0.1", port=redis.port)
    program = Program(manager)
    try:
        assert program.ask("acquire", "k", "a") == "True"
        for pid in (*keepers_of(program.pid), program.pid):
            os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        while not manager.acquire_lock("k", "b", timeout):
            assert time.monotonic() - began < 15 * LEASE
            time.sleep(0.2)
        assert time.monotonic() - began > 0.9 * LEASE
    finally:
        program.close()
    manager.release_lock("k", "b")


@pytest.fixture
def place_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of this machine are not watched, as if they were another's."""
    monkeypatch.setattr("kapstan.locks.processes._machine", str)
