"""Locks between processes: mutual exclusion, order, and what becomes of them when processes die, stop or get stuck."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from tests.contract.locks.program import Program

from kapstan.locking import LockManager

Start = Callable[[], Program]
Awaiting = Callable[[str, int], None]
AT_ONCE = 5.0
"""Seconds; the lease of most tests here is 10."""


def test_a_hundred_callers_in_four_processes(manager: LockManager, start: Start, key: str, tmp_path: Path) -> None:
    file = tmp_path / "record"
    crowd = [start().tell("crowd", key, 25, file) for _ in range(4)]
    assert [each.answer() for each in crowd] == ["25"] * 4
    lines = [line.split() for line in file.read_text().splitlines()]
    assert len(lines) == 200
    for entry, leave in zip(lines[::2], lines[1::2], strict=True):
        assert (entry[0], leave[0]) == ("in", "out")
        assert entry[1:] == leave[1:]
    tokens = [int(line[2]) for line in lines[::2]]
    assert tokens == sorted(set(tokens))
    assert not manager.is_locked(key)


def test_order_holds_across_processes(manager: LockManager, start: Start, key: str, await_waiting: Awaiting) -> None:
    programs = [start() for _ in range(3)]
    assert manager.acquire_lock(key, "first")
    for number in range(9):
        assert programs[number % 3].ask("line_up", key, f"h{number}") == "waiting"
        await_waiting(key, number + 1)
    holder = "first"
    for number in range(9):
        manager.release_lock(key, holder)
        assert programs[number % 3].answer() == "True"
        holder = f"h{number}"
        assert manager.is_lock_holder(key, holder)
    manager.release_lock(key, holder)


def test_one_holder_is_the_same_in_every_process(manager: LockManager, start: Start, key: str) -> None:
    program = start()
    assert program.ask("acquire", key, "a") == "True"
    assert manager.acquire_lock(key, "a", 0)
    manager.release_lock(key, "a")
    assert not manager.is_locked(key)
    assert program.ask("release", key, "a") == "LockLost"


def test_a_killed_holder_holds_nothing(manager: LockManager, start: Start, key: str, await_waiting: Awaiting) -> None:
    program = start()
    assert program.ask("acquire", key, "a") == "True"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(manager.acquire_lock, key, "b", 60)
        await_waiting(key, 1)
        began = time.monotonic()
        program.kill()
        assert waiting.result(60)
        assert time.monotonic() - began < AT_ONCE
    manager.release_lock(key, "b")


def test_a_holder_that_was_killed_while_nobody_waited(manager: LockManager, start: Start, key: str) -> None:
    program = start()
    assert program.ask("acquire", key, "a") == "True"
    program.kill()
    assert manager.acquire_lock(key, "b", AT_ONCE)
    manager.release_lock(key, "b")


@contextlib.contextmanager
def ended_is_seen(request: pytest.FixtureRequest, place: str) -> Iterator[None]:
    """Block until PostgreSQL has noticed that a process ended in the block: its server ends a session a moment after
    its client, and what is granted in between is given on at the next look."""
    if place != "postgres":
        yield
        return
    clients = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    with psycopg.connect(request.getfixturevalue("postgres").dsn, autocommit=True) as connection:

        def count() -> int:
            (found,) = connection.execute(clients).fetchone() or (0,)
            return found

        before, until = count(), time.monotonic() + 30
        yield
        while count() >= before:
            assert time.monotonic() < until, "the server does not notice"
            time.sleep(0.005)


def test_killed_waiters_are_passed_over(
    manager: LockManager,
    start: Start,
    key: str,
    await_waiting: Awaiting,
    place: str,
    request: pytest.FixtureRequest,
) -> None:
    assert manager.acquire_lock(key, "a")
    doomed, living = start(), start()
    for number in range(3):
        assert doomed.ask("line_up", key, f"doomed{number}") == "waiting"
    await_waiting(key, 3)
    assert living.ask("line_up", key, "living") == "waiting"
    await_waiting(key, 4)
    with ended_is_seen(request, place):
        doomed.kill()
    manager.release_lock(key, "a")
    began = time.monotonic()
    assert living.answer() == "True"
    assert time.monotonic() - began < AT_ONCE
    assert living.ask("release", key, "living") == "None"


@pytest.mark.usefixtures("lease")
def test_a_stopped_holder_is_not_robbed(manager: LockManager, start: Start, key: str) -> None:
    program = start()
    assert program.ask("acquire", key, "a") == "True"
    program.signal(signal.SIGSTOP)
    assert not manager.acquire_lock(key, "b", 5.0)  # two leases and a half
    program.signal(signal.SIGCONT)
    assert int(program.ask("guard", key, "a")) > 0
    assert program.ask("release", key, "a") == "None"


@pytest.mark.usefixtures("lease")
def test_code_that_lets_no_thread_run_is_not_robbed(manager: LockManager, start: Start, key: str) -> None:
    program = start()
    assert program.ask("acquire", key, "a") == "True"
    program.tell("hog", 5)
    assert not manager.acquire_lock(key, "b", 4.5)
    assert program.answer() == "hogged"
    assert program.ask("release", key, "a") == "None"


@pytest.mark.usefixtures("lease")
def test_code_that_closes_every_file_is_not_robbed_unawares(manager: LockManager, start: Start, key: str) -> None:
    program = start()
    assert program.ask("acquire", key, "a") == "True"
    assert program.ask("close_files") == "closed"
    robbed = manager.acquire_lock(key, "b", 4.0)
    answer = program.ask("guard", key, "a")
    assert answer == "LockLost" if robbed else int(answer) > 0
    assert program.ask("acquire", f"{key}-next", "a") == "True"
    assert not manager.acquire_lock(f"{key}-next", "b", 1.0)


@pytest.mark.usefixtures("lease")
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_forked_child_neither_holds_nor_keeps_what_its_parent_held(
    manager: LockManager, start: Start, key: str, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``elsewhere``: this process does not watch the other's, as if that were on another machine."""
    if elsewhere:
        monkeypatch.setattr("kapstan.locks.processes._machine", str)
    program = start()
    assert program.ask("acquire", key, "a") == "True"
    child, said = program.ask("fork", key).split(" ", 1)
    try:
        assert said == "held"
        assert int(program.ask("guard", key, "a")) > 0
        program.kill()
        assert manager.acquire_lock(key, "b", 4 * AT_ONCE)
        assert manager.is_lock_holder(f"{key}-of-the-child", "child")
        assert not manager.acquire_lock(f"{key}-of-the-child", "c", 0)
    finally:
        os.kill(int(child), signal.SIGKILL)
    assert manager.acquire_lock(f"{key}-of-the-child", "c", 4 * AT_ONCE)
    manager.release_lock(f"{key}-of-the-child", "c")
    manager.release_lock(key, "b")
